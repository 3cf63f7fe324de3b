"""An app that does nothing of ours: what Modal itself does, as the control plane plays it."""

# modal's stubs leave the types of its decorators and of .aio partly unknown
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

import modal

app = modal.App("toy")
values = modal.Dict.from_name("toy-values", create_if_missing=True)
log = modal.Queue.from_name("toy-log", create_if_missing=True)
MOUNT = os.environ.get("TOY_MOUNT", "/toy")
volume = modal.Volume.from_name("toy-files", create_if_missing=True)


def identity() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("MODAL_TASK_ID", "TOY_SECRET")}


@app.cls(
    enable_memory_snapshot=True,
    max_containers=3,
    timeout=60,
    scaledown_window=20,
    volumes={MOUNT: volume},
    secrets=[modal.Secret.from_name("toy-secret")],
)
class Toy:
    @modal.enter(snap=True)
    def load(self) -> None:
        self.order = ["load"]
        self.before = identity()
        self.loaded_at = time.monotonic()

    @modal.enter(snap=False)
    async def attach(self) -> None:
        self.order.append("attach")

    @modal.method()
    async def run(self, what: str, argument: Any = None) -> Any:
        await log.put.aio((what, os.getpid()), partition="starts")
        return await getattr(self, what)(argument)

    async def echo(self, argument: Any) -> dict[str, Any]:
        restored = bool(os.environ.get("MODAL_ENABLE_SNAP_RESTORE"))
        return {"got": argument, "pid": os.getpid(), "order": self.order, "restored": restored}

    async def identity(self, _: object) -> list[dict[str, str | None]]:
        return [self.before, identity()]

    async def sleep(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    async def fail(self, text: str) -> None:
        raise ValueError(text)

    async def time_out(self, _: object) -> None:
        raise TimeoutError

    async def lose_connection(self, _: object) -> None:
        raise modal.exception.ConnectionError("the worker could not ask Modal")

    async def write(self, name: str) -> None:
        await asyncio.to_thread(Path(MOUNT, name).write_text, name)

    async def commit(self, _: object) -> None:
        await volume.commit.aio()

    async def read(self, reload: bool) -> list[str]:
        if reload:
            await volume.reload.aio()
        return sorted(await asyncio.to_thread(os.listdir, MOUNT))

    async def reload_with_open_file(self, name: str) -> str:
        with await asyncio.to_thread(Path(MOUNT, name).open):
            try:
                await volume.reload.aio()
            except RuntimeError:
                return "refused"
        return "reloaded"


@app.cls(
    gpu="T4",
    enable_memory_snapshot=True,
    experimental_options={"enable_gpu_snapshot": True},
    scaledown_window=20,
)
class GpuToy:
    @modal.enter(snap=True)
    def load(self) -> None:
        self.number = random.random()

    @modal.method()
    async def run(self) -> bool:
        return bool(os.environ.get("MODAL_ENABLE_SNAP_RESTORE"))


@app.cls(timeout=1, scaledown_window=20)
class BriefToy:
    @modal.method()
    async def run(self) -> None:
        await asyncio.sleep(30)


@app.function(schedule=modal.Cron("*/30 * * * *"))
def count() -> int:
    values["count"] = values.get("count", 0) + 1
    return os.getpid()


@app.function(scaledown_window=20)
@modal.concurrent(max_inputs=10)
@modal.asgi_app(requires_proxy_auth=True)
def web() -> Any:
    from fastapi import FastAPI, Request
    from starlette.responses import Response, StreamingResponse

    api = FastAPI()

    @api.get("/slow")
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @api.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type=request.headers["content-type"])

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"a" * 10, b"b" * 10]))

    return api
