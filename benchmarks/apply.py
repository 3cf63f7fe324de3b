"""Applying inputs to a graph of 200 nodes, compared with copying it with ``copy.deepcopy``.

Exit 1 when ``apply`` takes 0.2 ms or more, or a quarter of the copy or more.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfysnap_schema.workflow.apply import Workflow

NODES = 200
LIMIT_MS = 0.2
LIMIT_RATIO = 0.25
MAP = """
name = "large"
[inputs.prompt]
path = ["1.inputs.text", "2.inputs.text"]
[inputs.negative_prompt]
path = ["3.inputs.text", "4.inputs.text"]
[inputs.seed]
path = ["10.inputs.seed", "20.inputs.seed"]
random = true
[inputs.steps]
path = ["10.inputs.steps", "20.inputs.steps"]
[inputs.cfg]
path = ["10.inputs.cfg", "20.inputs.cfg"]
[inputs.width]
path = "30.inputs.width"
[inputs.height]
path = "30.inputs.height"
[inputs.strength]
path = "40.inputs.cfg"
[outputs.images]
node = "200"
"""


def graph() -> dict[str, Any]:
    """A graph like a large real one: each node has a few values and links."""
    return {
        str(number): {
            "class_type": "SaveImage" if number == NODES else "Node",
            "inputs": {
                "text": "a fox in the snow, soft light, film grain",
                "seed": 1234567890,
                "steps": 20,
                "cfg": 7.0,
                "width": 1024,
                "height": 1024,
                "model": [str(max(1, number - 1)), 0],
                "image": [str(max(1, number - 2)), 0],
            },
            "_meta": {"title": f"Node {number}"},
        }
        for number in range(1, NODES + 1)
    }


def median_ms(work: Callable[[], object], rounds: int) -> float:
    """Median time of one call."""
    times: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def main() -> int:
    """Alternate both several times, and compare the medians of their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 50 if parser.parse_args().quick else 300
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "graph.json").write_text(json.dumps(graph()))
        (folder / "workflow.toml").write_text(MAP)
        workflow = Workflow.load(folder)
    inputs = workflow.complete({"prompt": "a fox", "steps": 8})
    applied = statistics.median(median_ms(lambda: workflow.apply(inputs), rounds) for _ in range(5))
    copied = statistics.median(
        median_ms(lambda: copy.deepcopy(workflow.graph), rounds) for _ in range(5)
    )
    ratio = applied / copied
    print(f"graph of {NODES} nodes, {len(inputs)} parameters, {rounds * 5} rounds")
    print(f"{'apply':<16}{applied:>10.4f} ms   limit {LIMIT_MS} ms")
    print(f"{'copy.deepcopy':<16}{copied:>10.4f} ms")
    print(f"{'ratio':<16}{ratio:>10.4f}      limit {LIMIT_RATIO}")
    missed = applied >= LIMIT_MS or ratio >= LIMIT_RATIO
    print("MISSED" if missed else "met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
