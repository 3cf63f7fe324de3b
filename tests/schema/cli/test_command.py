"""The command ``comfysnap`` itself."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer

from comfysnap_schema.cli import command as cli
from comfysnap_schema.wire.errors import SchemaError


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["comfysnap", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    assert isinstance(code, int)
    return code


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Make the command line one whose only command raises."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)

    def explode() -> None:
        raise error

    def build_app() -> typer.Typer:
        return app

    app.command("explode")(explode)
    monkeypatch.setattr(cli, "build_app", build_app)


def plugins(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    found = [EntryPoint(f"p{n}", value, cli.COMMANDS_GROUP) for n, value in enumerate(values)]

    def entry_points(*, group: str) -> list[EntryPoint]:
        assert group == cli.COMMANDS_GROUP
        return found

    monkeypatch.setattr(cli, "entry_points", entry_points)


def test_the_version_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins(monkeypatch, "comfysnap_schema.cli:register")
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("comfysnap 0.")


def test_the_command_runs_in_a_notebook_whose_output_is_not_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugins(monkeypatch, "comfysnap_schema.cli:register")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run(monkeypatch, "--version") == 0


def test_an_unknown_command_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(monkeypatch, "comfysnap_schema.cli:register")
    assert run(monkeypatch, "no-such-command") == 2


def test_a_broken_plugin_is_reported_and_the_others_still_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins(monkeypatch, "no_such_module_anywhere:register", "comfysnap_schema.cli:register")
    assert run(monkeypatch, "--help") == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "no_such_module_anywhere" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            SchemaError("c", "what would be right", file="a.toml", field="inputs.x"),
            2,
            "error: a.toml: inputs.x: what would be right\n",
        ),
        (PermissionError(13, "Permission denied", "out"), 1, "error: out: Permission denied\n"),
        (OSError("no name"), 1, "error: no name\n"),
        (ModuleNotFoundError("no", name="datamodel_code_generator.enums"), 2, None),
    ],
)
def test_an_error_that_the_user_can_fix_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    line: str | None,
) -> None:
    fail_with(monkeypatch, error)
    assert run(monkeypatch, "explode") == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert line in (None, err)


def test_ctrl_c_while_the_commands_load_shows_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_app() -> typer.Typer:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_app", build_app)
    assert run(monkeypatch, "new") == 130


def test_text_that_a_pipe_cannot_encode_does_not_end_the_command(
    root: Path, tmp_path: Path
) -> None:
    graph = json.loads((root / "workflows" / "flux" / "graph.json").read_text())
    graph["6"]["inputs"]["text"] = "色调艳丽"
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    code = "from comfysnap_schema.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "new", "mine", "graph.json"],
        cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u8272" in done.stdout


def test_a_missing_module_without_an_extra_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ModuleNotFoundError("no", name="nothing_of_this_name"))
    monkeypatch.setattr(sys, "argv", ["comfysnap", "explode"])
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def test_without_typer_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from comfysnap_schema.cli import main"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "comfysnap-schema[cli]" in done.stderr


def test_alone_the_command_prints_the_first_steps_that_are_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plugins(monkeypatch, "comfysnap_schema.cli:register")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "comfysnap init shop" in shown
    assert "comfysnap demo" not in shown


def test_alone_in_a_project_the_command_prints_what_to_do_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "comfysnap.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path) in shown
    for command in ("serve", "infer", "deploy --dry-run"):
        assert f"comfysnap {command}" in shown


def test_the_help_lists_the_commands_in_groups_and_those_of_other_packages_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def register(app: typer.Typer) -> None:
        app.command("aardvark")(lambda: None)

    def load(_: EntryPoint) -> Callable[[typer.Typer], None]:
        return register

    monkeypatch.setattr(EntryPoint, "load", load)
    plugins(monkeypatch, "mine:register")
    app = cli.build_app()
    cli.register(app)
    monkeypatch.setattr(cli, "build_app", lambda: app)
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    names = [shown.index(f"│ {name} ") for name in ("init", "new", "check", "diff", "aardvark")]
    assert names == sorted(names)
    assert "comfysnap init shop" in shown[names[-1] :]
