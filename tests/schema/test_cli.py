"""The command ``comfysnap`` itself."""

import sys
from importlib.metadata import EntryPoint

import pytest
import typer

from comfysnap_schema import cli
from comfysnap_schema.errors import SchemaError


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["comfysnap", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    assert isinstance(code, int)
    return code


def raise_schema_error(app: typer.Typer) -> None:
    @app.command("explode")
    def explode() -> None:  # pyright: ignore[reportUnusedFunction] -- typer calls it
        raise SchemaError("some_code", "what would be right", file="a.toml", field="inputs.x")


def plugins(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    found = [EntryPoint(f"p{n}", value, cli.COMMANDS_GROUP) for n, value in enumerate(values)]

    def entry_points(*, group: str) -> list[EntryPoint]:
        assert group == cli.COMMANDS_GROUP
        return found

    monkeypatch.setattr(cli, "entry_points", entry_points)


def test_the_version_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins(monkeypatch, "comfysnap_schema.cli:register")
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("comfysnap 0.")


def test_an_unknown_command_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(monkeypatch, "comfysnap_schema.cli:register")
    assert run(monkeypatch, "no-such-command") == 2


def test_a_broken_plugin_is_named_and_the_others_still_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins(monkeypatch, "no_such_module_anywhere:register", "comfysnap_schema.cli:register")
    assert run(monkeypatch, "--help") == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "no_such_module_anywhere" in captured.err
    assert "Traceback" not in captured.err


def test_a_wrong_file_is_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    raise_schema_error(app)

    def build_app() -> typer.Typer:
        return app

    monkeypatch.setattr(cli, "build_app", build_app)
    assert run(monkeypatch, "explode") == 2
    assert capsys.readouterr().err == "error: a.toml: inputs.x: what would be right\n"
