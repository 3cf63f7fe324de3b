"""``comfysnap info`` on the control plane."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.control_plane import ControlPlane
from tests.server.operations.conftest import Command

pytestmark = [pytest.mark.modal, pytest.mark.timeout(400)]


def test_nothing_deployed_is_an_error(plane: ControlPlane, comfysnap: Command) -> None:
    assert not plane.state.apps
    assert "studio" in comfysnap("info", code=1).stderr


def test_it_shows_versions_pools_starts_and_costs(
    deployed: ControlPlane,
    comfysnap: Command,
    infer: Callable[..., dict[str, Any]],
    read: Callable[..., Any],
) -> None:
    for _ in range(2):
        assert infer()["status"] == "succeeded"
    deployed.freeze("Worker_big.*", 1)
    assert infer("sdxl", prompt="a fox", steps=1)["timings"]["start_kind"] == "restored"
    assert infer("sdxl", prompt="a fox", steps=1)["status"] == "succeeded"
    shown = read("info")
    assert shown["version"] == 1
    assert [row["tag"] for row in shown["versions"]] == ["first"]
    pools = {pool["pool"]: pool for pool in shown["pools"]}
    assert pools.keys() == {"default", "big"}
    assert (pools["big"]["containers"], pools["big"]["queued"]) == (1, 0)
    assert pools["big"]["scaledown_window"] == 30
    hour, now = (pools["big"][f"dollars_per_{key}"] for key in ("container_hour", "hour_now"))
    assert hour == now == pytest.approx(3600 * (4 * 0.0000131 + 16 * 0.00000222))
    assert 0 < pools["big"]["dollars_per_job"] < hour
    assert shown["jobs"] == {"succeeded": 4}
    rows = {(row["kind"], row["phase"]): row for row in shown["starts"]}
    assert {kind for kind, _ in rows} == {"restored", "cold", "warm"}
    for kind, count in {"restored": 1, "cold": 1, "warm": 2}.items():
        whole = rows[kind, "to first picture"]
        assert whole["count"] == count
        assert rows[kind, "run"]["p50"] <= whole["p50"] <= whole["p95"]
    text = comfysnap("info").stdout
    for word in ("studio, version 1", "big", "first", "restored", "modal.com/pricing"):
        assert word in text


def test_errors_and_queues_are_counted(
    deployed: ControlPlane, infer: Callable[..., dict[str, Any]], read: Callable[..., Any]
) -> None:
    deployed.scale_to_zero("Worker_big.*")
    deployed.hold("Worker_big.*")
    url = deployed.function("gateway").web_url
    job = httpx.post(f"{url}/infer_async/sdxl", json={"prompt": "a fox", "steps": 1}).json()
    pools = {pool["pool"]: pool for pool in read("info")["pools"]}
    assert pools["big"]["queued"] == 1
    httpx.post(f"{url}/cancel/{job['id']}")
    deployed.hold("Worker_big.*", held=False)
    shown = read("info", "--jobs", "1")
    assert shown["jobs"] == {"cancelled": 1}


def test_a_pool_that_only_the_deployed_version_has_is_shown_too(
    deployed: ControlPlane, project: Path, read: Callable[..., Any]
) -> None:
    file = project / "comfysnap.toml"
    settings = file.read_text()
    try:
        file.write_text(settings.partition("[deploy.pools")[0])
        shown = {pool["pool"]: pool for pool in read("info")["pools"]}
    finally:
        file.write_text(settings)
    assert shown.keys() == {"default", "big"}
    assert shown["big"]["dollars_per_container_hour"] is None
