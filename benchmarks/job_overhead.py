"""Overhead of a job besides its nodes: our engine, the bare executor, and ComfyUI's API.

Runs a trivial graph that saves an empty picture, with another colour each time. Targets: our engine
at most 1.0 ms above the bare executor, and below POST + websocket.

    uv run python benchmarks/job_overhead.py [--quick]
"""

import argparse
import statistics
import sys
import time
from typing import Any

import httpx
from comfyui_bench import TRIVIAL, Comfy, answer, finished, post

LIMIT_MS = 1.0


def coloured(number: int) -> dict[str, Any]:
    """The trivial graph with a unique colour."""
    return {**TRIVIAL, "1": {**TRIVIAL["1"], "inputs": {**TRIVIAL["1"]["inputs"], "color": number}}}


def by_polling(client: httpx.Client, number: int) -> float:
    """POST, then poll each second."""
    started = time.perf_counter()
    prompt_id = post(client, coloured(number))
    while not finished(client, prompt_id):
        time.sleep(1.0)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    rounds = 50 if parser.parse_args().quick else 300
    comfy = Comfy.from_env()
    request = {"graph": TRIVIAL, "output": "9", "rounds": rounds}
    child = comfy.child("overhead", request)
    inside = answer(child)
    child.communicate()
    with comfy.server() as (client, _):
        asked = {"graph": TRIVIAL, "rounds": rounds, "url": str(client.base_url).rstrip("/")}
        child = comfy.child("websocket", asked)
        web: list[float] = answer(child)["seconds"]
        child.communicate()
        polled = [by_polling(client, 1000 + number) for number in range(3 if rounds < 100 else 10)]
    ways = {"our engine": inside["ours"], "bare executor": inside["bare"],
            "POST + websocket": web, "POST + 1 s polling": polled}  # fmt: skip
    print(f"{'way':<20}{'median ms':>12}{'p95 ms':>10}{'jobs':>7}")
    for name, seconds in ways.items():
        high = statistics.quantiles(seconds, n=20)[-1]
        print(f"{name:<20}{statistics.median(seconds) * 1e3:>12.2f}{high * 1e3:>10.2f}"
              f"{len(seconds):>7}")  # fmt: skip
    ours = statistics.median(inside["ours"])
    extra = (ours - statistics.median(inside["bare"])) * 1e3
    print(f"\nours - bare: {extra:+.2f} ms (limit {LIMIT_MS:.1f}); "
          f"ours / websocket: {ours / statistics.median(web):.2f} (limit 1)")  # fmt: skip
    sys.exit(extra > LIMIT_MS or ours >= statistics.median(web))


if __name__ == "__main__":
    main()
