"""Loads a ComfyUI with CUDA hidden, runs a trivial graph and prints what it found, as one line of
JSON; runs in an interpreter that has ComfyUI's packages, so it imports only the engine."""

import json
import sys
from typing import Any

from comfysnap_server.engine.comfyui.engine import ComfyUIEngine
from comfysnap_server.engine.comfyui.selftest import SelfTestError, self_test


def main() -> None:
    """``python -m comfysnap_server.doctor.probe_process CHECKOUT``."""
    engine = ComfyUIEngine(path=sys.argv[1], mask_cuda=True, api_nodes=True)
    engine.load()
    nodes: Any = sys.modules["nodes"]
    report = engine.report
    found = {
        "classes": {
            name: getattr(kind, "RELATIVE_PYTHON_MODULE", "nodes")
            for name, kind in nodes.NODE_CLASS_MAPPINGS.items()
        },
        "packs": {pack.name: pack.reason for pack in report.packs},
        "touched": [
            {"pack": c.pack, "function": c.function, "where": c.where, "refused": c.refused}
            for c in report.masked_calls
            if c.pack != "comfyui"
        ],
        "threads": report.unsafe_to_fork,
        "open_files": {pack.name: pack.open_files for pack in report.packs if pack.open_files},
        "own_failures": report.own_failures,
        "self_test": _self_test(engine),  # last: what a job leaves behind is not of the load
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def _self_test(engine: ComfyUIEngine) -> str | None:
    """Why the graph did not run; None when it did."""
    try:
        self_test(engine)
    except SelfTestError as error:
        return str(error)
    return None


if __name__ == "__main__":
    main()
