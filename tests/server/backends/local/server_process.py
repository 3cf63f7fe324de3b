"""A server to be killed: ``python -m tests.server.backends.local.server_process DATA LOG``.

Submits 5 short jobs and waits for them, then one that runs long and 20 behind it, prints their
ids as JSON, and stays.
"""

import asyncio
import json
import sys
from pathlib import Path

from comfysnap_server.backends.local import LocalBackend
from tests.server.backends.suite import FOREVER, finish, request, sampling, until_sampling


async def main(data: Path, log: Path) -> None:
    backend = LocalBackend(
        data,
        engine="tests.server.backends.local.engines:LoggingEngine",
        engine_options={"log": str(log), "step_seconds": 0.02},
    )
    await backend.start()
    finished = [(await backend.submit(request())).job for _ in range(5)]
    for job in finished:
        await finish(backend, job)
    running = (await backend.submit(request(sampling(FOREVER)))).job
    queued = [(await backend.submit(request())).job for _ in range(20)]
    await until_sampling(backend, running)
    worker = await backend.worker_pid()
    ids = {
        "finished": [job.id for job in finished],
        "running": running.id,
        "queued": [job.id for job in queued],
        "worker": worker,
    }
    print(json.dumps(ids), flush=True)  # noqa: T201 -- read by the test
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
