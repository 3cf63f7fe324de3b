"""From the wake of a loaded worker to its first picture, with weights that are not cached.

A fork of a loaded process attaches and runs two steps of a diffusion model at 64x64 (0.5 GB of
random weights): without and with reading ahead, in turns. First from a folder whose single stream
is limited, which is a simulation of a network volume (`slow_folder.py`); then from the same folder
with the weights in the page cache. Targets: at least 2 times faster when cold, at most 5 % slower
when warm.

    sudo -E uv run python benchmarks/first_picture.py [--quick]
"""

import argparse
import copy
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

from cold_start import by_fork
from comfyui_bench import CHECKPOINT, DIFFUSION, Comfy, answer
from slow_folder import LATENCY, RATE, RATE_OF_ALL, forget, slow_folder, why_not

NAME: Final = "slow-sd15.safetensors"
WAYS: Final = {"off": "ComfyUI alone", "auto": "read ahead"}
COLD_TARGET: Final = 2.0
WARM_LIMIT: Final = 1.05
Times = dict[tuple[str, str], list[float]]
"""(state of the weights, way) to seconds."""


def measure(comfy: Comfy, folder: Path, mount_point: Path, runs: int) -> Times:
    """Run all ways in turns, so that a busy machine slows all of them."""
    graph = copy.deepcopy(DIFFUSION)
    graph["4"]["inputs"]["ckpt_name"] = NAME
    paths = mount_point.with_name("paths.yaml")
    paths.write_text(f"slow:\n    checkpoints: {mount_point}\n")
    times: Times = {}
    with slow_folder(folder, mount_point) as mounted:
        parents = {
            way: comfy.child(
                "parent", {"options": {"read_ahead": way, "extra_model_paths": [str(paths)]}}
            )
            for way in WAYS
        }
        for parent in parents.values():
            answer(parent)
        for state in ("cold", "warm"):
            for turn in range(runs + 1):
                for way, parent in parents.items():
                    if state == "cold":
                        forget(mounted / NAME)
                    taken, _ = by_fork(parent, graph)
                    if turn:  # the first of each is not counted: it loads libraries
                        times.setdefault((state, way), []).append(taken)
                print(".", end="", flush=True)
        for parent in parents.values():
            parent.communicate()
    print()
    return times


def report(times: Times) -> bool:
    """Print times and ratios; returns whether the targets are met."""
    print(f"{'weights':<9}{'way':<15}{'min s':>8}{'median s':>10}{'max s':>8}")
    for (state, way), seconds in times.items():
        print(f"{state:<9}{WAYS[way]:<15}{min(seconds):>8.3f}"
              f"{statistics.median(seconds):>10.3f}{max(seconds):>8.3f}")  # fmt: skip
    cold, warm = (
        statistics.median(
            without / ahead
            for without, ahead in zip(times[state, "off"], times[state, "auto"], strict=True)
        )
        for state in ("cold", "warm")
    )
    print(f"cold: {cold:.2f} times faster, target {COLD_TARGET:g}")
    print(f"warm: {1 / warm:.3f} times the time, limit {WARM_LIMIT:g}")
    return cold >= COLD_TARGET and 1 / warm <= WARM_LIMIT


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
    with tempfile.TemporaryDirectory() as name:
        folder, mount_point = Path(name, "weights"), Path(name, "slow")
        folder.mkdir()
        mount_point.mkdir()
        (folder / NAME).symlink_to(comfy.path / "models" / "checkpoints" / CHECKPOINT)
        times = measure(comfy, folder, mount_point, 2 if given.quick else given.runs)
    sys.exit(not report(times))


if __name__ == "__main__":
    main()
