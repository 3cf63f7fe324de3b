"""After attach, a process that was loaded without a GPU is what ``main.py`` makes of one.

The GPU is pretended by patching ``torch.cuda`` from outside, in the process that ``main.py`` itself
starts in as well; everything that both decided must be the same.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from comfysnap_server.engine.comfyui.release import TESTED, read_version
from tests.server.comfyui.conftest import HERE, SOURCES, real_comfyui

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since main.py writes into its folder."""
    _, path = real_comfyui()
    copy = tmp_path_factory.mktemp("comfyui") / "ComfyUI"
    own = {".git", "models", "output", "user", "temp"}

    def ignored(folder: str, names: list[str]) -> set[str]:
        return own & set(names) if Path(folder) == path else set()

    shutil.copytree(path, copy, ignore=ignored)
    return copy


def made_by(way: str, checkout: Path, *arguments: str) -> dict[str, Any]:
    python, _ = real_comfyui()
    done = subprocess.run(
        [python, str(HERE / "parity.py"), way, str(checkout), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, SOURCES))},
        capture_output=True,
        text=True,
        timeout=200,
    )
    if way == "main" and done.returncode and read_version(checkout) != TESTED[-1]:
        # the packages of the newest release are too new for it
        pytest.skip(f"main.py does not start here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--deterministic", "--cuda-device", "0", "--reserve-vram", "1.5"),
        ("--default-device", "1", "--lowvram", "--disable-pinned-memory"),
        ("--highvram", "--fast"),
    ],
    ids=lambda arguments: " ".join(arguments) or "plain",
)
def test_an_attached_process_is_what_main_py_would_have_made(
    checkout: Path, arguments: tuple[str, ...]
) -> None:
    expected = made_by("main", checkout, *arguments)
    assert made_by("engine", checkout, *arguments) == expected
    assert expected["state"]["cpu_state"] == "GPU"


def test_kitchen_attention_is_chosen_although_it_asks_for_a_gpu_at_import(checkout: Path) -> None:
    taken = (checkout / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    if "--use-ck-attention" not in taken:
        pytest.skip("this release does not have --use-ck-attention")
    expected = made_by("main", checkout, "--use-ck-attention")
    found = made_by("engine", checkout, "--use-ck-attention")
    assert found == expected
    assert set(found["using"].values()) == {"attention_comfy_kitchen_int8"}


def test_what_attach_decides_again_was_decided_otherwise_while_loading(checkout: Path) -> None:
    loaded, attached = (made_by(way, checkout) for way in ("loaded", "engine"))
    assert loaded["state"]["total_vram"] != attached["state"]["total_vram"]
    assert loaded["sdpa"] != attached["sdpa"]
    if attached["aimdo"]["enabled"] is not None:
        assert loaded["aimdo"]["loaded"]
        assert (loaded["aimdo"]["enabled"], attached["aimdo"]["enabled"]) == (False, True)
        assert (loaded["devices"], len(attached["devices"])) == ([], 1)
