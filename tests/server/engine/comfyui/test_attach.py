"""After attach, a process that was loaded without a GPU is in the same state as with ``main.py``.

The GPU is simulated by patching ``torch.cuda``, in the process of ``main.py`` as well; both must
make the same decisions.
"""

import os
import subprocess
from pathlib import Path

import pytest

from comfysnap_server.pins import TESTED, read_version
from tests.server.engine.comfyui.conftest import SOURCES, paths_file, real_comfyui
from tests.server.engine.comfyui.graphs import CHECKPOINT
from tests.server.engine.comfyui.main_py import copy_checkout, made_by

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("comfyui") / "ComfyUI")


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
def test_an_attached_process_is_in_the_same_state_as_main_py(
    checkout: Path, arguments: tuple[str, ...]
) -> None:
    expected = made_by("main", checkout, *arguments)
    assert made_by("engine", checkout, *arguments) == expected
    assert expected["state"]["cpu_state"] == "GPU"


def test_kitchen_attention_is_used_although_it_needs_a_gpu_at_import(checkout: Path) -> None:
    taken = (checkout / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    if "--use-ck-attention" not in taken:
        pytest.skip("this release does not have --use-ck-attention")
    expected = made_by("main", checkout, "--use-ck-attention")
    found = made_by("engine", checkout, "--use-ck-attention")
    assert found == expected
    assert set(found["using"].values()) == {"attention_comfy_kitchen_int8"}


def test_attach_changes_decisions_that_were_made_while_loading(checkout: Path) -> None:
    loaded, attached = (made_by(way, checkout) for way in ("loaded", "engine"))
    assert loaded["state"]["total_vram"] != attached["state"]["total_vram"]
    if read_version(checkout) == TESTED[-1]:
        assert loaded["sdpa"] != attached["sdpa"]
    if attached["aimdo"]["enabled"] is not None:
        assert loaded["aimdo"]["loaded"]
        assert (loaded["aimdo"]["enabled"], attached["aimdo"]["enabled"]) == (False, True)
        assert (loaded["devices"], len(attached["devices"])) == ([], 1)


LOADS_TWICE = """
import sys
from comfysnap_server.engine.comfyui.engine import ComfyUIEngine
engine = ComfyUIEngine(path=sys.argv[1], extra_model_paths=[sys.argv[2]],
                       preload=["checkpoints/" + sys.argv[3]])
engine.load()
engine.attach()
import comfy.memory_management, comfy.utils, folder_paths, torch
comfy.memory_management.aimdo_enabled = True
path = folder_paths.get_full_path("checkpoints", sys.argv[3])
from_memory = comfy.utils.load_torch_file(path)
from_file = comfy.utils.load_torch_file.__wrapped__(path)
assert from_memory.keys() == from_file.keys() and len(from_file) > 100
for name, tensor in from_memory.items():
    assert torch.equal(tensor, from_file[name]), name
slices = [hasattr(t.untyped_storage(), "_comfy_tensor_file_slice")
          for t in (*from_memory.values(), *from_file.values())]
assert slices == [False] * len(from_memory) + [True] * len(from_file)
"""


def test_with_dynamic_vram_preloaded_weights_come_from_memory_and_others_from_the_file(
    checkout: Path, tmp_path: Path
) -> None:
    memory = checkout / "comfy" / "memory_management.py"
    if not memory.exists() or "aimdo_enabled" not in memory.read_text(encoding="utf-8"):
        pytest.skip("this release does not have DynamicVRAM as it is since 0.19")
    python, _ = real_comfyui()
    paths = paths_file("real", tmp_path)
    done = subprocess.run(
        [python, "-c", LOADS_TWICE, str(checkout), str(paths), CHECKPOINT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, SOURCES))},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
