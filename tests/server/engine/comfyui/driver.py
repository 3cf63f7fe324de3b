"""Runs one ComfyUI engine in its own process; reads and writes lines of JSON."""

import json
import logging
import operator
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comfysnap_schema.wire.jobs import Progress, Timings
from comfysnap_schema.wire.options import JobOptions
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.engine.comfyui.engine import ComfyUIEngine
from comfysnap_server.engine.protocol import EngineJob, PreviewFrame
from comfysnap_server.jobs.run import EarlyOutput, execute

OUT = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
_writing = threading.Lock()


def send(**message: Any) -> None:
    with _writing:
        OUT.write(json.dumps(message) + "\n")


def run(engine: ComfyUIEngine, request: dict[str, Any]) -> None:
    job = EngineJob(
        job_id=request["job_id"],
        graph=request["graph"],
        outputs={k: OutputSpec.model_validate(v) for k, v in request["outputs"].items()},
        fields=request.get("fields", {}),
        input_dir=Path(request["folder"]) / "input",
        output_dir=Path(request["folder"]) / "output",
        drawing=request.get("drawing"),
        options=JobOptions(previews=request.get("previews", False)),
    )

    def report(what: Progress | PreviewFrame | EarlyOutput) -> None:
        if isinstance(what, Progress):
            send(event="progress", job=job.job_id, **what.model_dump(mode="json"))
        elif isinstance(what, EarlyOutput):
            send(event="output", job=job.job_id, name=what.name, value=what.output.on_wire())
        else:
            send(event="preview", job=job.job_id, size=len(what.data), start=what.data[:3].hex())

    end = execute(engine, job, report).end(Timings(), Progress()).model_dump(mode="json")
    send(event="done", job=job.job_id, node_seconds=end["timings"]["nodes"], **end)


def facts(engine: ComfyUIEngine) -> dict[str, Any]:
    """State of the process that tests inspect."""
    torch: Any = sys.modules["torch"]
    management: Any = sys.modules["comfy.model_management"]
    folders: Any = sys.modules["folder_paths"]
    status = Path("/proc/self/status").read_text().splitlines()
    rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return {
        "report": json.loads(json.dumps(asdict(engine.report), default=str)),
        "unsafe_to_fork": engine.unsafe_to_fork,
        "cuda_functions": [
            getattr(torch.cuda, name).__qualname__
            for name in ("is_available", "device_count", "_lazy_init", "current_device")
        ],
        "available": torch.cuda.is_available(),
        "dtype": str(torch.get_default_dtype()),
        "cpu_state": management.cpu_state.name,
        "output": folders.get_output_directory(),
        "temp": folders.get_temp_directory(),
        "rss_kb": rss,
        "pid": os.getpid(),
        "out": OUT.fileno(),
        "device": engine.device,
        "dynamic_vram": bool(
            getattr(sys.modules.get("comfy.memory_management"), "aimdo_enabled", 0)
        ),
        "initialized": bool(torch.cuda.is_initialized()),
    }


def aimdo(_: ComfyUIEngine) -> dict[str, Any]:
    """comfy-aimdo's library and the result of a call to it; empty in releases without it."""
    if not hasattr(sys.modules.get("comfy.memory_management"), "aimdo_enabled"):
        return {}
    control: Any = sys.modules["comfy_aimdo.control"]
    mapped = Path("/proc/self/maps").read_text()
    try:
        if hasattr(control, "get_devctx"):
            answer = control.get_devctx(0)
        else:  # comfy-aimdo 0.1
            answer = control.get_total_vram_usage()
    except RuntimeError as error:
        answer = error
    return {
        "library": str(control.lib),
        "mapped": control.lib._name in mapped,
        "answer": str(answer),
    }


LOOKS = {"facts": facts, "aimdo": aimdo}


def read(name: str) -> Any:
    """The value of ``module:attribute.attribute`` in this process."""
    module, _, attributes = name.partition(":")
    return operator.attrgetter(attributes)(sys.modules[module])


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    engine: ComfyUIEngine | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "load":
                engine = ComfyUIEngine(**request["options"])
                engine.load()
                if request["attach"]:
                    engine.attach()
                send(event="loaded")
                continue
            assert engine is not None
            if request["do"] == "run":
                threading.Thread(target=run, args=(engine, request)).start()
            elif request["do"] == "interrupt":
                engine.interrupt(request["job_id"])
            elif request["do"] == "attach":
                engine.attach()
                send(event="attached")
            elif request["do"] in LOOKS:
                send(event=request["do"], **LOOKS[request["do"]](engine))
            elif request["do"] == "read":
                values = [read(name) for name in request["names"]]
                send(event="read", values=json.loads(json.dumps(values, default=str)))
        except Exception as error:
            send(event="error", kind=type(error).__name__, message=str(error))


if __name__ == "__main__":
    main()
