"""``comfysnap logs`` on the control plane."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.control_plane import ControlPlane
from tests.server.operations.conftest import Command

pytestmark = [pytest.mark.modal, pytest.mark.timeout(400)]


def test_the_lines_of_one_job_and_of_its_container(
    deployed: ControlPlane,
    comfysnap: Command,
    infer: Callable[..., dict[str, Any]],
    read: Callable[..., Any],
) -> None:
    first, second = infer()["id"], infer()["id"]
    elsewhere = infer("sdxl", prompt="a fox", steps=1)["id"]
    (container,) = deployed.pool("Worker.*").live
    lines = read("logs", second)
    (gateway,) = deployed.pool("gateway").live
    assert {line["container"] for line in lines} == {gateway.task_id, container.task_id}
    assert all(second in line["text"] for line in lines)
    for line, words in zip(lines, ("job accepted", "job started", "job ended"), strict=True):
        assert words in line["text"]
    assert "status=succeeded" in lines[-1]["text"]
    text = comfysnap("logs", second, "--container").stdout
    assert "worker started" in text
    assert first in text
    assert elsewhere not in text


def test_an_unknown_job_is_an_error(comfysnap: Command, deployed: ControlPlane) -> None:
    assert "unknown job" in comfysnap("logs", "job_nope", code=1).stderr


def test_lines_of_a_preempted_job_come_from_both_containers(
    deployed: ControlPlane, read: Callable[..., Any]
) -> None:
    import httpx

    url = deployed.function("gateway").web_url
    body = {"prompt": "a fox", "steps": 60}
    job = httpx.post(f"{url}/infer_async/sdxl", json=body, timeout=60).json()
    with httpx.stream("GET", f"{url}/events/{job['id']}", timeout=60) as events:
        for line in events.iter_lines():
            if '"running"' in line:
                break
    (container,) = [c for c in deployed.pool("Worker_big.*").containers if c.running]
    deployed.preempt(container)
    httpx.get(f"{url}/check_status/{job['id']}?wait=25", timeout=60)
    started = [line for line in read("logs", job["id"]) if "job started" in line["text"]]
    assert [line["text"].partition(" run=")[2][0] for line in started] == ["1", "2"]
    assert len({line["container"] for line in started}) == 2
