"""From the wake of a loaded worker to its first picture, with weights and libraries not cached.

A fork of a loaded process attaches and runs two steps of a diffusion model at 64x64 (0.5 GB of
random weights): without and with reading ahead, in turns. Like a restored process, a fork has no
page of its libraries mapped. First with the weights, then with the weights and torch's libraries
on a folder whose single stream is limited, which is a simulation of a network volume
(`slow_folder.py`); then from the same folders with all of it in the page cache. Targets: 2 times
faster when the weights are cold, 2.5 times when the libraries are too, at most 5 % slower when all
is warm.

The slow folder is mounted over that of torch's libraries, for the processes of this script alone.

    sudo -E uv run python benchmarks/first_picture.py [--quick]
"""

import argparse
import copy
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from cold_start import by_fork
from comfyui_bench import CHECKPOINT, DIFFUSION, Comfy, answer
from slow_folder import LATENCY, RATE, RATE_OF_ALL, forget, slow_folder, why_not

NAME: Final = "slow-sd15.safetensors"
WAYS: Final = {"off": "ComfyUI alone", "auto": "read ahead"}
COLD: Final = {"weights": 2.0, "both": 2.5}
"""What is cold, and how many times faster it shall be."""
WARM: Final = "nothing"
WARM_LIMIT: Final = 1.05
Times = dict[tuple[str, str], list[float]]
"""(what is cold, way) to seconds."""
_CLONE_NEWNS: Final = 0x20000
_MS_PRIVATE_ALL: Final = 0x4000 | 1 << 18


def own_mounts() -> None:
    """Let no other process see what this one mounts."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_PRIVATE_ALL, None):
        sys.exit(f"cannot have mounts of its own: {os.strerror(ctypes.get_errno())}")


def torch_libraries(comfy: Comfy) -> Path:
    """The folder of torch's libraries."""
    code = "import importlib.util; print(importlib.util.find_spec('torch').origin)"
    found = subprocess.run([comfy.python, "-c", code], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip()).resolve().parent / "lib"


def measure(comfy: Comfy, base: Path, runs: int) -> Times:
    """Run all ways in turns, so that a busy machine slows all of them."""
    libraries, weights, slow = torch_libraries(comfy), base / "weights", base / "slow"
    weights.mkdir()
    slow.mkdir()
    (weights / NAME).symlink_to(comfy.path / "models" / "checkpoints" / CHECKPOINT)
    graph = copy.deepcopy(DIFFUSION)
    graph["4"]["inputs"]["ckpt_name"] = NAME
    paths = base / "paths.yaml"
    paths.write_text(f"slow:\n    checkpoints: {slow}\n")
    times: Times = {}
    with slow_folder(weights, slow), slow_folder(libraries, libraries):
        parents = {
            way: comfy.child(
                "parent",
                {
                    "unmap": str(libraries),
                    "options": {
                        "read_ahead": way,
                        "read_ahead_libraries": way,
                        "extra_model_paths": [str(paths)],
                    },
                },
            )
            for way in WAYS
        }
        for parent in parents.values():
            answer(parent)
        for cold in (*COLD, WARM):
            for turn in range(runs + 1):
                for way, parent in parents.items():
                    if cold != WARM:
                        forget(slow / NAME)
                    if cold == "both":
                        for library in libraries.iterdir():
                            forget(library)
                    taken, _ = by_fork(parent, graph)
                    if turn:  # the first is not counted: it loads what is elsewhere
                        times.setdefault((cold, way), []).append(taken)
                print(".", end="", flush=True)
        for parent in parents.values():
            parent.communicate()
    print()
    return times


def report(times: Times) -> bool:
    """Print times and ratios; returns whether the targets are met."""
    print(f"{'cold':<9}{'way':<15}{'min s':>8}{'median s':>10}{'max s':>8}")
    for (cold, way), seconds in times.items():
        print(f"{cold:<9}{WAYS[way]:<15}{min(seconds):>8.3f}"
              f"{statistics.median(seconds):>10.3f}{max(seconds):>8.3f}")  # fmt: skip
    faster = {
        cold: statistics.median(
            without / ahead
            for without, ahead in zip(times[cold, "off"], times[cold, "auto"], strict=True)
        )
        for cold in (*COLD, WARM)
    }
    for cold, target in COLD.items():
        print(f"{cold} cold: {faster[cold]:.2f} times faster, target {target:g}")
    warm = 1 / faster[WARM]
    print(f"{WARM} cold: {warm:.3f} times the time, limit {WARM_LIMIT:g}")
    return warm <= WARM_LIMIT and all(faster[cold] >= target for cold, target in COLD.items())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two runs instead of nine")
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    missing = why_not()
    if missing:
        sys.exit(f"cannot simulate a slow folder: {missing}")
    comfy = Comfy.from_env()
    comfy.needs_checkpoint()
    print(f"a simulated folder: each stream {LATENCY * 1e3:g} ms a request and "
          f"{RATE / 1e6:g} MB/s, all together {RATE_OF_ALL / 1e6:g} MB/s")  # fmt: skip
    own_mounts()
    with tempfile.TemporaryDirectory() as name:
        times = measure(comfy, Path(name).resolve(), 2 if given.quick else given.runs)
    sys.exit(not report(times))


if __name__ == "__main__":
    main()
