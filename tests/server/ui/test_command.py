import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from comfysnap_server.ui.command import UiCommand, comfyui_command, read_options

WriteProject = Callable[[str], Path]

OLD = ("--listen", "--port", "--user-directory", "--extra-model-paths-config", "--database-url")
NEW = (*OLD, "--enable-manager", "--enable-manager-legacy-ui", "--disable-assets")


def write_checkout(folder: Path, options: tuple[str, ...], *, manager: bool = False) -> Path:
    """A folder that takes these options; with ``manager``, its ``main.py`` finds the package."""
    (folder / "comfy").mkdir(parents=True)
    lines = ["raise ImportError('not to be imported')", "# --enable-everything is not an option"]
    lines += [f"group.add_argument({name!r}, help='not --enable-help')" for name in options]
    (folder / "comfy" / "cli_args.py").write_text("\n".join(lines))
    if manager:
        (folder / "comfyui_manager").mkdir()
        (folder / "comfyui_manager" / "__init__.py").touch()
    return folder


def command_for(checkout: Path, **more: list[str]) -> UiCommand:
    own, database = checkout.parent / "own", checkout.parent / "local" / "comfyui.db"
    return comfyui_command(checkout, sys.executable, port=8189, own=own, database=database, **more)


def values(argv: list[str], option: str) -> list[str]:
    return [argv[i + 1] for i, argument in enumerate(argv) if argument == option]


def test_options_of_a_checkout_are_read_without_importing_it(tmp_path: Path) -> None:
    assert read_options(write_checkout(tmp_path / "comfyui", NEW)) == frozenset(NEW)


def test_a_release_without_the_manager_option_is_started_without_it(tmp_path: Path) -> None:
    command = command_for(write_checkout(tmp_path / "comfyui", OLD, manager=True))
    assert not command.manager
    assert "--enable-manager" not in command.argv
    assert "--disable-assets" not in command.argv


def test_manager_is_on_if_the_package_is_installed(tmp_path: Path) -> None:
    command = command_for(write_checkout(tmp_path / "comfyui", NEW, manager=True))
    assert command.manager
    assert command.argv.count("--enable-manager") == 1


def test_manager_is_off_if_the_package_is_missing_or_an_empty_folder(tmp_path: Path) -> None:
    checkout = write_checkout(tmp_path / "comfyui", NEW)
    assert not command_for(checkout).manager
    (checkout / "comfyui_manager").mkdir()
    assert not command_for(checkout).manager


def test_user_data_and_the_database_are_in_different_folders(tmp_path: Path) -> None:
    argv = command_for(write_checkout(tmp_path / "comfyui", NEW)).argv
    for kind in ("user", "input", "output"):
        assert values(argv, f"--{kind}-directory") == [str(tmp_path / "own" / kind)]
        assert (tmp_path / "own" / kind).is_dir()
    assert values(argv, "--database-url") == [f"sqlite:///{tmp_path}/local/comfyui.db"]
    assert "--disable-assets" in argv


def test_arguments_cannot_change_the_address(tmp_path: Path) -> None:
    checkout = write_checkout(tmp_path / "comfyui", NEW)
    argv = command_for(checkout, arguments=["--fast", "--listen", "10.0.0.1", "--port", "1"]).argv
    assert argv[:3] == [sys.executable, str(checkout / "main.py"), "--fast"]
    assert (values(argv, "--listen")[-1], values(argv, "--port")[-1]) == ("127.0.0.1", "8189")


def test_a_folder_that_is_not_a_checkout_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cli_args\.py"):
        command_for(tmp_path)


@pytest.mark.parametrize("name", ["extra_model_paths.yaml", "extra_paths.yaml"])
def test_checkout_arguments_and_model_paths_come_from_the_settings(
    write: WriteProject, tmp_path: Path, name: str
) -> None:
    (tmp_path / "workflows").mkdir()
    (tmp_path / name).write_text("more:\n  loras: /mnt/loras\n")
    project = write(
        f'[deploy]\nextra_model_paths = "{name}"\nengine_options = {{arguments = ["--lowvram"]}}\n'
    )
    checkout = write_checkout(tmp_path / "comfyui", NEW, manager=True)
    ask = "import json; from comfysnap_server.ui import app; print(json.dumps(app.comfyui().argv))"
    environment = os.environ | {
        "COMFYSNAP_PROJECT": str(project),
        "COMFYSNAP_FILES_DIR": str(tmp_path / "files"),
        "COMFYUI_PATH": str(checkout),
        "COMFYUI_PYTHON": sys.executable,
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", ask], env=environment, capture_output=True, check=True
    )
    argv = json.loads(done.stdout)
    assert argv[:3] == [sys.executable, str(checkout / "main.py"), "--lowvram"]
    assert values(argv, "--extra-model-paths-config") == [f"/project/{name}"]
    assert values(argv, "--output-directory") == [str(tmp_path / "files" / "ui" / "output")]
    (database,) = (Path(url.removeprefix("sqlite:///")) for url in values(argv, "--database-url"))
    assert database.parent.is_dir()
    assert not database.is_relative_to(tmp_path / "files")
