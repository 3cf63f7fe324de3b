"""One owner that does its worst within its budget, and another that does not notice much.

Two keys of ``comfysnap serve`` on the simulated engine. One submits, asks, lists and uploads,
one request after the other; then again while the other, in processes of its own, sends bodies of
4 MiB, uploads, addresses to download, listings by filter, event streams, submits and cancels, all
at once and for as long as its 600 requests a minute last. Target: the 99th percentile of each kind
of request of the first grows at most five times, or stays below 50 ms.

    uv run python benchmarks/neighbours.py [--quick] [--seconds 60]
"""

import argparse
import asyncio
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).resolve().parent.parent
COMMAND: Final = (sys.executable, "-c", "from comfysnap_schema.cli import main; main()")
WORSE: Final = 5.0
UNNOTICED_S: Final = 0.050
BUDGET: Final = ("--requests-per-minute=600", "--max-unfinished-jobs=50")
SMALL: Final = {"width": 16, "height": 16}
LARGE: Final = json.dumps({"prompt": "x" * 4_000_000}).encode()
MANY: Final = json.dumps({"prompt": [[] for _ in range(24_000)]}).encode()
UPLOAD: Final = secrets.token_bytes(8 * 1024 * 1024)


def new_key(data: Path, name: str, *options: str) -> str:
    """A key of the server."""
    done = subprocess.run(
        [*COMMAND, "keys", "add", name, f"--data={data}", "--json", *options],
        check=True, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    return json.loads(done.stdout)["key"]


@contextmanager
def server(data: Path) -> Generator[str]:
    """A server for keys."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port=0", "--engine=simulated", "--auth=keys", f"--data={data}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
        env={**os.environ, "COMFYUI_PATH": ""},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(30)


def client(url: str, key: str) -> httpx.AsyncClient:
    """A client with a key."""
    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=200)
    return httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=60)


async def worst(url: str, key: str) -> None:
    """Everything at once, until the process is ended; then what was answered."""
    answers: Counter[str] = Counter()
    async with client(url, key) as http:

        async def repeat(what: str, method: str, path: str, **options: Any) -> None:
            while True:
                with suppress(httpx.HTTPError):
                    answer = await http.request(method, path, **options)
                    answers[f"{what} {answer.status_code}"] += 1
                    if answer.status_code == 429:
                        await asyncio.sleep(float(answer.headers.get("retry-after", "1")))

        async def stream() -> None:
            while True:
                with suppress(httpx.HTTPError, KeyError):
                    job = (await http.post("/infer_async/flux", json={"prompt": "x"})).json()["id"]
                    async with http.stream("GET", f"/events/{job}") as events:
                        answers[f"stream {events.status_code}"] += 1
                        await asyncio.sleep(1)
                    await http.post(f"/cancel/{job}")
                await asyncio.sleep(0.2)

        digest = hashlib.sha256(UPLOAD).hexdigest()
        kind = {"Content-Type": "application/json"}
        named = {"prompt": "x", "image": {"url": "https://example.invalid/a.png"}}
        tasks = [
            *(repeat("large body", "POST", "/infer_async/flux", content=LARGE, headers=kind)
              for _ in range(4)),
            *(repeat("many values", "POST", "/infer_async/flux", content=MANY, headers=kind)
              for _ in range(4)),
            *(repeat("upload", "PUT", f"/files/{digest}", content=UPLOAD) for _ in range(4)),
            *(repeat("address", "POST", "/infer_async/img2img", json=named) for _ in range(4)),
            *(repeat("listing", "GET", "/jobs?status=cancelled&limit=200") for _ in range(8)),
            *(repeat("submit", "POST", "/infer_async/hello", json=SMALL) for _ in range(8)),
            *(stream() for _ in range(16)),
        ]  # fmt: skip
        running = [asyncio.ensure_future(task) for task in tasks]
        await asyncio.to_thread(sys.stdin.read)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    print(json.dumps(answers))


async def measure(url: str, key: str, seconds: float) -> dict[str, list[float]]:
    """Seconds of each request of the well-behaved owner."""
    found: dict[str, list[float]] = {}
    number = 0
    end = time.monotonic() + seconds
    async with client(url, key) as http:
        while time.monotonic() < end:
            number += 1
            content = number.to_bytes(8)
            job = ""
            requests: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
                ("submit", "POST", "/infer_async/hello", {"json": SMALL}),
                ("status", "GET", "/check_status/{job}", {}),
                ("list", "GET", "/jobs?limit=20", {}),
                ("upload", "PUT", f"/files/{hashlib.sha256(content).hexdigest()}",
                 {"content": content}),
            )  # fmt: skip
            for what, method, path, options in requests:
                started = time.perf_counter()
                answer = await http.request(method, path.format(job=job), **options)
                found.setdefault(what, []).append(time.perf_counter() - started)
                answer.raise_for_status()
                if what == "submit":
                    job = answer.json()["id"]
            await asyncio.sleep(0.2)  # fewer jobs than it may have unfinished
    return found


def p99(times: list[float]) -> float:
    """The 99th percentile."""
    return sorted(times)[int(len(times) * 0.99)]


def main() -> int:
    """Run; the exit code is 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 s each")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--worst", nargs=2, metavar=("URL", "KEY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worst:
        os.nice(10)
        asyncio.run(worst(*given.worst))
        return 0
    seconds = 10.0 if given.quick else given.seconds
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        good, bad = new_key(data, "good"), new_key(data, "bad", *BUDGET)
        with server(data) as url:
            alone = asyncio.run(measure(url, good, seconds))
            attack = subprocess.Popen(
                [sys.executable, __file__, "--worst", url, bad],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            time.sleep(2)
            beside = asyncio.run(measure(url, good, seconds))
            answers, _ = attack.communicate("")
    print(f"the other owner was answered {answers.strip()}")
    met = True
    for what, times in beside.items():
        before, after = p99(alone[what]), p99(times)
        fine = after <= max(before * WORSE, UNNOTICED_S)
        met = met and fine
        print(
            f"{what:8} {len(times):5} times: p99 {after * 1000:7.1f} ms beside it,"
            f" {before * 1000:6.1f} ms alone, {after / before:5.1f} times"
            f" {'met' if fine else 'MISSED'}"
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
