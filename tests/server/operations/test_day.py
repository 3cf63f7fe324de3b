"""An operator's day, from the first dry run to the end of the deployment."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from comfysnap_schema.wire.jobs import JobStatus
from tests.control_plane import ControlPlane
from tests.server.operations.conftest import Command

pytestmark = [pytest.mark.modal, pytest.mark.timeout(900)]


def names(plane: ControlPlane, prefix: str) -> set[str]:
    return {name for kind, name in plane.state.named if kind == prefix}


def test_an_operators_day(plane: ControlPlane, comfysnap: Command) -> None:
    # before anything is paid for
    plan = comfysnap("deploy", "--dry-run").stdout
    assert "Worker_big" in plan
    assert "an hour at rest" in plan
    assert not plane.state.apps

    # deployed, and started once, so that nobody waits for the first snapshot
    said = comfysnap("deploy", "--tag", "morning").stdout
    assert "the gateway answered 200" in said
    assert "a container of Worker_big starts" in said
    url = plane.function("gateway").web_url
    calls = [*plane.calls("Worker.*"), *plane.calls("Worker_big.*")]
    assert len(calls) == 2

    # jobs, and where their time goes
    def infer(workflow: str, **inputs: object) -> dict[str, Any]:
        job = httpx.post(f"{url}/infer_sync/{workflow}", json=inputs, timeout=60).json()
        assert job["status"] == JobStatus.SUCCEEDED, plane.logs()
        return job

    drawn = [infer("hello"), infer("sdxl", prompt="a fox", steps=1), infer("hello")]
    shown = json.loads(comfysnap("info", "--json").stdout)
    assert shown["jobs"] == {"succeeded": 3}
    assert shown["versions"][0]["tag"] == "morning"
    assert "status=succeeded" in comfysnap("logs", drawn[1]["id"]).stdout

    # the afternoon is busy
    assert "an hour" in comfysnap("warm", "2", "--pool", "big").stdout
    assert plane.function("Worker_big.*").definition.autoscaler_settings.min_containers == 2
    assert len(plane.pool("Worker_big.*").live) == 2
    comfysnap("warm", "9", "--pool", "big", code=2)
    comfysnap("warm", "1", "--pool", "nope", code=2)
    comfysnap("warm", "0", "--pool", "big")

    # what a start costs in time, measured
    plane.freeze("Worker.*", 1)
    plane.scale_to_zero("Worker.*", frozen=False)
    text = comfysnap("measure", "hello", "--starts", "1", "--yes").stdout
    assert "restored" in text
    assert "not on Modal's cloud" in text

    # a new version, with containers replaced at once, and back again
    old = plane.pool("Worker.*").live
    comfysnap("deploy", "--no-warm-up", "--strategy", "recreate", "--tag", "worse")
    assert all(container.exit_code is not None for container in old)
    infer("hello")
    said = comfysnap("rollback", "1").stdout
    assert "the gateway answered 200" in said
    assert infer("hello")["id"]
    shown = json.loads(comfysnap("info", "--json").stdout)
    assert (shown["version"], shown["jobs"]) == (3, {"succeeded": 6})

    # and the end of it: the models stay
    refused = comfysnap("destroy", answer="no\n", code=1)
    assert "studio-jobs" in refused.stdout
    assert "kept: secrets, volume studio-models, volume studio-files" in refused.stdout
    assert plane.state.app("studio")
    comfysnap("destroy", "--volume", "other", code=2)
    comfysnap("destroy", "--volume", "studio-files", answer="studio\n")
    assert not [app for app in plane.state.apps.values() if app.version]
    assert names(plane, "vo") == {"studio-models"}
    assert not {*names(plane, "di"), *names(plane, "qu")}
    comfysnap("info", code=1)
    assert "(not deployed)" in comfysnap("destroy", "--yes").stdout


@pytest.fixture
def read_environments(plane: ControlPlane) -> Callable[[], set[str]]:
    """The environments that requests named since the last call."""

    def work() -> set[str]:
        seen = {name for names in plane.state.environments.values() for name in names}
        plane.state.environments.clear()
        return seen

    return work


def test_every_command_names_the_environment_that_it_is_given(
    plane: ControlPlane, comfysnap: Command, read_environments: Callable[[], set[str]]
) -> None:
    comfysnap("deploy", "--env", "staging", "--no-warm-up")
    assert read_environments() >= {"staging"}
    for command in (
        ["info"],
        ["warm", "0"],
        ["doctor", "--online"],
        ["models", "list"],
        ["rollback", "1"],
        ["destroy", "--yes"],
    ):
        read_environments()
        comfysnap(*command, "--env", "staging")
        assert read_environments() - {"main"} == {"staging"}, command
