"""The client without an event loop."""

import inspect
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import comfysnap_client
from comfysnap_client import DeadlineExceeded, JobFailed, JobStatus, NotFound, Progress, blocking
from comfysnap_client.testing import MockServer
from tests.client.fakes import DrawInput, DrawOutput

FOX = DrawInput(prompt="a fox")


def setting(polled: threading.Event) -> dict[str, list[Any]]:
    """Event hooks that set ``polled`` at the first status request."""

    async def hook(request: httpx.Request) -> None:
        if request.url.path.startswith("/check_status"):
            polled.set()

    return {"request": [hook]}


@pytest.mark.parametrize("kind", ["Client", "Job"])
def test_the_blocking_client_has_the_same_methods(kind: str) -> None:
    twin, original = getattr(blocking, kind), getattr(comfysnap_client, kind)
    for name, method in inspect.getmembers(original, inspect.isfunction):
        if name.startswith("_") or name == "aclose":
            continue
        assert inspect.signature(getattr(twin, name)).parameters.keys() == (
            inspect.signature(method).parameters.keys()
        ), name


def test_the_options_match_the_constructor() -> None:
    from comfysnap_client.client import ClientOptions

    named = list(inspect.signature(comfysnap_client.Client.__init__).parameters)[2:]
    assert named == list(ClientOptions.__annotations__)


def test_everything_works_without_a_loop(comfysnap_server: MockServer, tmp_path: Path) -> None:
    done = DrawOutput(images=(comfysnap_server.image(),), text="a fox")
    comfysnap_server.on(DrawInput).succeeds(done, progress=[Progress(fraction=0.5)])
    seen: list[float] = []
    with blocking.Client.from_env() as client:
        assert client.base_url == comfysnap_server.url
        assert comfysnap_server.url in repr(client)
        output = client.infer_sync(FOX, on_progress=lambda progress: seen.append(progress.fraction))
        picture = client.read(output.images[0])
        assert client.image(output.images[0]).size == (8, 8)
        assert client.save(output.images[0], tmp_path).read_bytes() == picture
        assert b"".join(client.stream(output.images[0])) == picture

        job = client.infer_async(FOX)
        assert job.id in repr(job)
        assert job.status().id == job.id
        assert [event.type for event in job.events()][-1] == "done"
        assert job.result().text == job.wait().outputs["text"]  # pyright: ignore[reportOptionalSubscript]
        assert job.record is not None
        assert client.check_status(job.id).status == JobStatus.SUCCEEDED
        assert client.cancel(job.id).status == job.cancel().status == JobStatus.SUCCEEDED
        assert client.job(job.id, DrawOutput).result().text == "a fox"
        assert client.job(job.id).result().values["text"] == "a fox"
        assert next(client.jobs()).id == job.id
        assert [r.output.text for r in client.map([FOX, FOX])] == ["a fox"] * 2
        assert [workflow.name for workflow in client.workflows()] == ["draw"]
        assert client.workflow("draw").contract == "c0ffee"
        with pytest.raises(NotFound):
            client.workflow("x")
    assert 0.5 in seen


async def test_it_works_inside_a_running_event_loop(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).succeeds(DrawOutput(text="x"))
    with blocking.Client.from_env() as client:
        assert client.infer_sync(FOX).text == "x"


def test_leaving_an_iteration_early_closes_it(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).succeeds(DrawOutput()).hangs().succeeds(DrawOutput())
    with blocking.Client.from_env() as client:
        for result in client.map([FOX] * 2, concurrency=2):
            assert result.index == 0
            break
        assert comfysnap_server.requests[-1].startswith("POST /cancel/")
        results = client.map([FOX])
        next(results)
        client.close()
        results.close()


def test_errors_are_raised_to_the_caller(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).fails().hangs()
    with blocking.Client.from_env() as client:
        with pytest.raises(JobFailed):
            client.infer_sync(FOX)
        with pytest.raises(DeadlineExceeded):
            client.infer_sync(FOX, timeout=0.2)
    assert comfysnap_server.requests[-1].startswith("POST /cancel/")


def test_ctrl_c_cancels_the_job(
    comfysnap_server: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfysnap_server.on(DrawInput).hangs()

    polled = threading.Event()

    def interrupted(self: "Future[object]", timeout: float | None = None) -> object:
        assert polled.wait(60)
        raise KeyboardInterrupt

    with blocking.Client.from_env(event_hooks=setting(polled)) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Future, "result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.infer_sync(FOX)
        assert comfysnap_server.requests[-1].startswith("POST /cancel/")


def test_closing_stops_the_thread_and_rejects_further_calls(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).hangs()
    before = set(threading.enumerate())
    client = blocking.Client(comfysnap_server.url)
    client.infer_async(FOX)
    client.close()
    client.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(RuntimeError, match="closed"):
        client.infer_sync(FOX)


def test_the_client_cannot_be_used_in_a_callback(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).succeeds(DrawOutput(), progress=[Progress(fraction=0.5)])
    raised: list[BaseException] = []
    with blocking.Client.from_env() as client:

        def call_back(_progress: Progress) -> None:
            try:
                client.check_status("job_x")
            except RuntimeError as error:
                raised.append(error)

        client.infer_sync(FOX, on_progress=call_back)
    assert raised


def test_closing_ends_a_wait_on_another_thread(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).hangs()
    polled = threading.Event()
    client = blocking.Client(comfysnap_server.url, event_hooks=setting(polled))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.infer_sync, FOX)
        assert polled.wait(60)
        client.close()
        with pytest.raises(CancelledError):
            waiting.result(60)
