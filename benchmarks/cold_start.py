"""From a cold start to a finished job: ComfyUI's server, our engine, a fork, a restored image.

(a) ``main.py`` until the first job is done over HTTP; (b) our load, attach and job in a new
process; (c) attach and job in a fork of a process that loaded; (d) the same from a CRIU image,
if ``criu`` 4 or later works. Two jobs: an empty picture, and two steps of a diffusion model with
random weights at 64x64, which (c) finds preloaded; (d) reads them from their file, since preloaded
weights make the image larger and its restore slower. Targets: (c) at least 60 times faster than (a)
for the trivial job, 5.5 times for the diffusion job; attach and trivial job in a fork at most 20
ms; a collection after the fork writes to at most 1 MiB of shared memory.

    uv run python benchmarks/cold_start.py [--quick]
"""

import argparse
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from comfyui_bench import CHECKPOINT, DIFFUSION, TRIVIAL, Comfy, Graph, answer, finished, post

JOBS: Final[Mapping[str, Graph]] = {"trivial": TRIVIAL, "diffusion": DIFFUSION}
TARGETS: Final = {"trivial": 60.0, "diffusion": 5.5}
ENGINE_LIMIT: Final = 0.020
"""Seconds of attach and the trivial job in a fork, without the fork."""
COLLECTED_LIMIT: Final = 1024
"""KiB."""
PRELOAD: Final = {"preload": [f"checkpoints/{CHECKPOINT}"]}
# a clone has the dumped process's id, so it needs a namespace in which the id is free
NAMESPACE: Final = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
WAYS: Final = {"a": "main.py", "b": "new process", "c": "fork", "d": "CRIU image"}
Times = dict[tuple[str, str], list[float]]
"""(way, job) to seconds."""


def by_main(comfy: Comfy, graph: Graph) -> float:
    """(a)"""
    with comfy.server() as (client, started):
        prompt_id = post(client, graph)
        while not finished(client, prompt_id):
            time.sleep(0.005)
        return time.perf_counter() - started


def by_new_process(comfy: Comfy, graph: Graph) -> float:
    """(b)"""
    started = time.perf_counter()
    child = comfy.child("fresh", {"graph": graph, "output": "9"})
    answer(child)
    taken = time.perf_counter() - started
    child.communicate()
    return taken


def by_fork(
    parent: "subprocess.Popen[str]", graph: Graph, *, collect: bool = False
) -> tuple[float, Mapping[str, float]]:
    """(c), with seconds of ``attach``, ``job`` and ``cpu`` in the fork, and KiB ``collected``."""
    assert parent.stdin is not None
    started = time.perf_counter()
    parent.stdin.write(json.dumps({"graph": graph, "output": "9", "collect": collect}) + "\n")
    parent.stdin.flush()
    done = answer(parent)["done"]
    return time.perf_counter() - started, done


def why_no_criu() -> str:
    """Why (d) is skipped; empty if it is not."""
    if shutil.which("criu") is None:
        return "criu is not installed"
    version = subprocess.run(["criu", "--version"], capture_output=True, text=True, check=False)
    number = version.stdout.split()[1] if version.stdout else "?"
    if not number.partition(".")[0].isdigit() or int(number.partition(".")[0]) < 4:
        return f"criu {number} is older than 4"
    for command in (["criu", "check"], [*NAMESPACE, "true"]):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return f"{' '.join(command)} fails here (privileges or kernel)"
    return ""


def by_criu(comfy: Comfy, graph: Graph, folder: Path, runs: int) -> tuple[list[float], str]:
    """(d): dump a loaded process that waits for a job, restore it for each run.

    Returns:
        The seconds of each run, and a note about the image and the process's libraries.
    """
    images, job, result = folder / "images", folder / "job.json", folder / "done.json"
    images.mkdir(parents=True)
    child = comfy.child("waiting", {"job": str(job), "result": str(result)})
    library = answer(child)["aimdo"]
    dump = ["criu", "dump", "-t", str(child.pid), "-D", str(images), "--shell-job"]
    _criu(dump, images / "dump.log")
    child.communicate()
    job.write_text(json.dumps({"graph": graph, "output": "9"}))
    times: list[float] = []
    attaches: list[float] = []
    try:
        for _ in range(runs):
            log = images / "restore.log"
            restore = [*NAMESPACE, "criu", "restore", "-D", str(images), "--shell-job"]
            started = time.perf_counter()
            clone = subprocess.Popen([*restore, "-o", str(log)], stdin=subprocess.DEVNULL)
            while not result.exists():
                if clone.poll() is not None and not result.exists():
                    sys.exit(
                        f"the restored process did not save a picture:\n{log.read_text()[-2000:]}"
                    )
                time.sleep(0.002)
            times.append(time.perf_counter() - started)
            clone.wait()
            done = json.loads(result.read_text())
            result.unlink()
            attaches.append(done["attach"])
            if done["aimdo"] != library:
                sys.exit(f"comfy-aimdo was {library!r} and is {done['aimdo']!r} after the restore")
    finally:
        size = sum(file.stat().st_size for file in images.iterdir())
        shutil.rmtree(folder)
    kept = "loaded before and after" if library else "not loaded before or after"
    return times, (
        f"attach {statistics.median(attaches) * 1e3:.1f} ms, image {size / 2**20:.0f} MiB, "
        f"comfy-aimdo's library {kept}"
    )


def _criu(command: list[str], log: Path) -> None:
    if subprocess.run([*command, "-o", str(log)], capture_output=True, check=False).returncode:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")


def measure(comfy: Comfy, runs: int, folder: Path) -> tuple[Times, list[Mapping[str, float]], str]:
    """All times, what forks with the trivial job measured, and notes about (d)."""
    times: Times = {(way, job): [] for way in WAYS for job in JOBS}
    for job, graph in JOBS.items():
        for _ in range(runs):
            times["a", job].append(by_main(comfy, graph))
            times["b", job].append(by_new_process(comfy, graph))
            print(".", end="", flush=True)
    parent = comfy.child("parent", {"options": dict(PRELOAD)})
    answer(parent)
    for job, graph in JOBS.items():
        for _ in range(runs):
            times["c", job].append(by_fork(parent, graph)[0])
    forks = [by_fork(parent, TRIVIAL, collect=True)[1] for _ in range(runs)]
    parent.communicate()
    missing = why_no_criu()
    if missing:
        return times, forks, f"(d) skipped: {missing}"
    notes: list[str] = []
    for job, graph in JOBS.items():
        times["d", job], note = by_criu(comfy, graph, folder / job, runs)
        notes.append(f"(d) {job}: {note}")
    return times, forks, "\n".join(notes)


def table(times: Times) -> str:
    """Minimum, median, maximum, and speed-up over (a)."""
    lines = [f"{'job':<11}{'way':<16}{'min s':>9}{'median s':>10}{'max s':>9}{'vs (a)':>9}"]
    for job in JOBS:
        base = statistics.median(times["a", job])
        for way, name in WAYS.items():
            found = times[way, job]
            if found:
                middle = statistics.median(found)
                lines.append(f"{job:<11}({way}) {name:<12}{min(found):>9.3f}{middle:>10.3f}"
                             f"{max(found):>9.3f}{base / middle:>8.1f}x")  # fmt: skip
    return "\n".join(lines)


def draw(times: Times, caption: str, path: Path) -> None:
    """Draw one row per way and job, with a dot for each run on a logarithmic scale."""
    from PIL import Image, ImageDraw, ImageFont

    rows = [(job, way) for job in JOBS for way in WAYS if times[way, job]]
    width, left, step = 1200, 260, 46
    image = Image.new("RGB", (width, 130 + step * len(rows)), "white")
    pen = ImageDraw.Draw(image)
    large, font = ImageFont.load_default(20), ImageFont.load_default(16)
    colours = {"a": "#80868b", "b": "#4285f4", "c": "#0f9d58", "d": "#db4437"}

    def place(seconds: float) -> float:
        return left + (width - left - 90) * (_log(seconds) - _log(0.01)) / (_log(30) - _log(0.01))

    for tick in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30):
        x = place(tick)
        pen.line((x, 56, x, image.height - 64), fill="#dddddd")
        pen.text((x, image.height - 48), f"{tick:g} s", fill="#555555", font=font, anchor="mm")
    title = "From a cold start to a finished job (each dot is a run, shorter is to the left)"
    pen.text((20, 16), title, fill="black", font=large)
    pen.text((20, image.height - 28), caption, fill="#555555", font=font)
    for index, (job, way) in enumerate(rows):
        y = 78 + index * step
        found = sorted(times[way, job])
        pen.text((20, y), f"{job}: {WAYS[way]}", fill="black", font=font, anchor="lm")
        pen.line((place(found[0]), y, place(found[-1]), y), fill=colours[way], width=2)
        for seconds in found:
            x = place(seconds)
            pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colours[way], outline="white")
        middle = f"{statistics.median(found):.3g} s"
        pen.text((place(found[-1]) + 12, y), middle, fill=colours[way], font=font, anchor="lm")
    image.save(path)


def machine(comfy: Comfy) -> str:
    """What was measured, where and when."""
    version = (comfy.path / "comfyui_version.py").read_text().rpartition("= ")[2].strip().strip('"')
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    today = datetime.now(UTC).strftime("%-d %B %Y")
    return f"ComfyUI {version} on CPU, {os.cpu_count()} cores of {cpu[1] if cpu else '?'}; {today}"


def _log(value: float) -> float:
    return math.log10(max(value, 0.01))


def verdict(times: Times, forks: list[Mapping[str, float]]) -> bool:
    """Print each target; returns whether all are met."""
    good = True
    for job, target in TARGETS.items():
        times_faster = statistics.median(times["a", job]) / statistics.median(times["c", job])
        good &= times_faster >= target
        print(f"{job}: (c) is {times_faster:.1f} times faster than (a), target {target:g}")
    attach = statistics.median(fork["attach"] for fork in forks)
    engine = statistics.median(fork["attach"] + fork["job"] for fork in forks)
    best = min(fork["attach"] + fork["job"] for fork in forks)
    used = statistics.median(fork["cpu"] for fork in forks)
    collected = statistics.median(fork["collected"] for fork in forks)
    print(f"attach {attach * 1e3:.1f} ms, with the trivial job {engine * 1e3:.1f} ms, "
          f"limit {ENGINE_LIMIT * 1e3:g} (the best {best * 1e3:.1f} ms, of a processor "
          f"{used * 1e3:.1f} ms: a busy machine adds the rest)")  # fmt: skip
    print(f"a collection after the fork: {collected:.0f} KiB, limit {COLLECTED_LIMIT}")
    return good and engine <= ENGINE_LIMIT and collected <= COLLECTED_LIMIT


def main() -> None:
    """Measure, print, and draw if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two runs instead of ten")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--picture", type=Path, help="draw one to this file")
    given = parser.parse_args()
    comfy = Comfy.from_env()
    comfy.needs_checkpoint()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="cold-start-") as folder:
        times, forks, note = measure(comfy, 2 if given.quick else given.runs, Path(folder))
    print("\n" + table(times))
    print(note)
    caption = machine(comfy)
    print(caption)
    if given.picture is not None:
        draw(times, caption, given.picture)
    sys.exit(not verdict(times, forks))


if __name__ == "__main__":
    main()
