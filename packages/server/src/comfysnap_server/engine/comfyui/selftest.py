"""Runs a trivial graph on a newly loaded ComfyUI, to detect an install that cannot run jobs.

The process must end afterwards (the image build, ``comfysnap doctor``): after a job it can no
longer be snapshotted or forked.

``python -m comfysnap_server.engine.comfyui.selftest CHECKOUT [--options JSON]`` exits 1 with the
reason when the graph does not run.
"""

import argparse
import json
import sys
from pathlib import Path

from pydantic import JsonValue

from comfysnap_schema.wire import Progress
from comfysnap_server.engine.comfyui.engine import ComfyUIEngine
from comfysnap_server.engine.comfyui.library_pages import small_job
from comfysnap_server.engine.protocol import EngineError, NodeOutput, PreviewFrame
from comfysnap_server.errors import ComfysnapServerError


class SelfTestError(ComfysnapServerError):
    """ComfyUI cannot run the graph; the message is the reason."""


def self_test(engine: ComfyUIEngine) -> None:
    """Run the small job of ``library_pages`` on a loaded engine.

    Raises:
        SelfTestError: The job failed, or did not produce a picture.
        DeviceMissingError: The engine's options require a CUDA device, and none was found.
    """
    engine.attach()
    seen: list[Progress | PreviewFrame | NodeOutput] = []
    with small_job("self-test") as job:
        version = engine.report.version
        try:
            made = engine.run(job, seen.append).outputs["image"]
        except Exception as error:
            reason = str(error) if isinstance(error, EngineError) else repr(error)
            raise SelfTestError(f"ComfyUI {version} cannot run a job: {reason}") from error
    if not made:
        raise SelfTestError(f"ComfyUI {version} did not produce a picture")
    if not any(isinstance(event, Progress) and event.fraction == 1 for event in seen):
        raise SelfTestError(f"ComfyUI {version} does not report progress")


def main() -> int:
    """Load a checkout with CUDA hidden and run the test."""
    parser = argparse.ArgumentParser(prog="selftest", description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--options", default="{}", help="the engine's options, as JSON")
    given = parser.parse_args()
    options: dict[str, JsonValue] = json.loads(given.options)
    options |= {"path": str(given.checkout), "preload": [], "device": None}
    engine = ComfyUIEngine(**options)
    try:
        engine.load()
        self_test(engine)
    except Exception as error:
        sys.stderr.write(f"self-test failed: {type(error).__name__}: {error}\n")
        return 1
    report = engine.report
    for name in report.own_failures:
        sys.stderr.write(f"warning: {name} of ComfyUI's own nodes could not be imported\n")
    for pack in report.packs:
        if pack.reason is not None:
            sys.stderr.write(f"warning: node pack {pack.name} was not loaded: {pack.reason}\n")
    sys.stdout.write(f"self-test passed: ComfyUI {report.version} on {engine.device}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
