import pytest
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from tests.contract.processes import environment

COMMANDS = [
    "serve",
    "key",
    "demo",
    "doctor",
    "deploy",
    "rollback",
    "ui",
    "models sync",
    "models list",
    "models rm",
    "comfyui install",
    "comfyui nodes",
    "comfyui show",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_one_text_for_each_shared_option(command: str) -> None:
    wide = environment("none") | {"COLUMNS": "200", "TERM": "dumb"}
    result = CliRunner().invoke(build_app(), [*command.split(), "--help"], env=wide)
    assert result.exit_code == 0
    assert f"Example: comfysnap {command}" in result.output
    texts = {
        "--project": "Project folder or its comfysnap.toml. Default: this folder or a parent.",
        "--env ": "Modal environment.",
        "--json": "Print JSON.",
    }
    for option, text in texts.items():
        assert (option in result.output) == (text in result.output)
