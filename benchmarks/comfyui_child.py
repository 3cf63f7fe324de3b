"""The processes that the ComfyUI benchmarks measure; run by ComfyUI's interpreter."""

import asyncio
import copy
import ctypes
import gc
import importlib
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.backends.local.fork_server import settle
from comfysnap_server.engine.comfyui.engine import ComfyUIEngine
from comfysnap_server.engine.protocol import EngineJob

OUT: Final = os.dup(1)
_MADV_DONTNEED: Final = 4


def send(**message: Any) -> None:
    """Send one line of JSON to the benchmark."""
    os.write(OUT, json.dumps(message).encode() + b"\n")


def job_of(graph: Any, output: str, number: int, folder: Path) -> EngineJob:
    """A job with its own folders."""
    own = folder / f"{os.getpid()}-{number}"
    for name in ("input", "output"):
        (own / name).mkdir(parents=True)
    outputs = {"image": OutputSpec(node=output, many=True)}
    return EngineJob(
        job_id=f"job_{os.getpid()}_{number}", graph=graph, outputs=outputs,
        input_dir=own / "input", output_dir=own / "output",
    )  # fmt: skip


def load(options: dict[str, Any]) -> ComfyUIEngine:
    """Create and load the engine."""
    engine = ComfyUIEngine(**options)
    engine.load()
    return engine


def run_once(engine: ComfyUIEngine, request: dict[str, Any]) -> dict[str, float]:
    """Attach and run one job; returns the seconds of both, and of the processor."""
    started, used = time.perf_counter(), time.process_time()
    engine.attach()
    attached = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(request["graph"], request["output"], 0, Path(folder))
        result = engine.run(job, lambda _: None)
        made = len(result.outputs["image"])
    if not made:
        raise RuntimeError("the job did not save a picture")
    return {
        "attach": attached - started,
        "job": time.perf_counter() - attached,
        "cpu": time.process_time() - used,
    }


def fresh(request: dict[str, Any]) -> None:
    """Load, attach and run one job in this process."""
    send(done=run_once(load(request["options"]), request))


def parent(request: dict[str, Any]) -> None:
    """Load once, and fork a child for each line of input; ``collect`` in it adds the KiB that a
    garbage collection after the job writes to. ``unmap`` is the folder of libraries whose pages
    this process gives up, as a page cache keeps what is mapped."""
    engine = load(request["options"])
    settle()
    if "unmap" in request:
        unmap(request["unmap"])
    send(loaded=True)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                done = run_once(engine, asked)
                send(done={**done, "collected": collected()} if asked.get("collect") else done)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)


def unmap(folder: str) -> None:
    """Unmap the pages of libraries that this process has not written to; a fork or a touch maps
    them again."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, access, *_, path = line.split(maxsplit=5)
        start, end = (int(number, 16) for number in place.split("-"))
        if access == "r-xp" and path.startswith(f"{folder}/"):
            madvise(start, end - start, _MADV_DONTNEED)


def collected() -> int:
    """The KiB of shared memory that a garbage collection in this fork writes to."""
    before = _private()
    gc.collect()
    return _private() - before


def _private() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def aimdo() -> str:
    """comfy-aimdo's library in this process; empty if it is not loaded."""
    library: Any = getattr(sys.modules.get("comfy_aimdo.control"), "lib", None)
    mapped = library is not None and library._name in Path("/proc/self/maps").read_text()
    return str(library) if mapped else ""


def waiting(request: dict[str, Any]) -> None:
    """Load, wait for a file with a job (to be dumped meanwhile), and run it."""
    engine = load(request["options"])
    send(loaded=True, aimdo=aimdo())
    asked, result = Path(request["job"]), Path(request["result"])
    while not asked.exists():
        time.sleep(0.001)
    done = run_once(engine, json.loads(asked.read_text()))
    whole = result.with_suffix(".part")
    whole.write_text(json.dumps({**done, "aimdo": aimdo()}))
    whole.rename(result)


def overhead(request: dict[str, Any]) -> None:
    """Alternate the same graph on our engine and on the bare executor."""
    engine = load(request["options"])
    engine.attach()
    rounds, graph, output = request["rounds"], request["graph"], request["output"]
    ours: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        bare_run = _bare(graph, Path(folder))
        for number in range(rounds):
            job = job_of(_unlike(graph, number), output, number, Path(folder))
            ours.append(_seconds(lambda job=job: engine.run(job, lambda _: None)))
            bare.append(bare_run(number))
    send(ours=ours, bare=bare)


def _bare_executor(execution: Any, server: Any) -> Any:
    """An executor with ComfyUI's classic cache, as with ``--cache-classic``."""
    if "cache_args" not in inspect.signature(execution.PromptExecutor.__init__).parameters:
        return execution.PromptExecutor(server)
    arguments = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
    return execution.PromptExecutor(
        server, cache_type=execution.CacheType.CLASSIC, cache_args=arguments
    )


def _bare(graph: Any, folder: Path) -> Callable[[int], float]:
    """What ``main.py`` does for a prompt, without its server and queue: validate and execute."""
    execution: Any = sys.modules["execution"]
    server: Any = sys.modules["server"].PromptServer.instance
    folders: Any = sys.modules["folder_paths"]
    executor = _bare_executor(execution, server)

    def run(number: int) -> float:
        folders.set_output_directory(str(folder))
        prompt = copy.deepcopy(_unlike(graph, number))

        def once() -> None:
            ok, _, outputs, _ = asyncio.run(execution.validate_prompt("p", prompt, None))
            executor.execute(prompt, "p", {"client_id": "bench"}, outputs)
            if not ok or executor.status_messages[-1][0] != "execution_success":
                raise RuntimeError("the bare executor failed")

        return _seconds(once)

    return run


def websocket(request: dict[str, Any]) -> None:
    """POST each job to ``main.py``, wait for its end on the websocket, read the history."""
    send(seconds=asyncio.run(_websocket(request)))


async def _websocket(request: dict[str, Any]) -> list[float]:
    aiohttp: Any = importlib.import_module("aiohttp")
    url, seconds = request["url"], list[float]()
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}/ws?clientId=b") as socket:
        for number in range(request["rounds"]):
            body = {"prompt": _unlike(request["graph"], number), "client_id": "b"}
            started = time.perf_counter()
            async with http.post(f"{url}/prompt", json=body) as answered:
                prompt_id = (await answered.json())["prompt_id"]
            async for message in socket:
                text = message.data if message.type == aiohttp.WSMsgType.TEXT else "{}"
                event: dict[str, Any] = json.loads(text)
                data: dict[str, Any] = event.get("data", {})
                if event.get("type") == "executing" and data.get("node", 0) is None:
                    break
            async with http.get(f"{url}/history/{prompt_id}") as answered:
                if prompt_id not in await answered.json():
                    raise RuntimeError("the prompt ended, but is not in the history")
            seconds.append(time.perf_counter() - started)
    return seconds


def _unlike(graph: Any, number: int) -> Any:
    """Change the colour, so that nothing is cached."""
    changed = copy.deepcopy(graph)
    changed["1"]["inputs"]["color"] = number
    return changed


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


MODES: Final = {
    "fresh": fresh,
    "waiting": waiting,
    "parent": parent,
    "overhead": overhead,
    "websocket": websocket,
}

if __name__ == "__main__":
    os.dup2(2, 1)
    MODES[sys.argv[1]](json.loads(sys.argv[2]))
