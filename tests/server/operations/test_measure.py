"""``comfysnap measure`` on the control plane."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from comfysnap_server.operations import PhaseSeconds, draw_starts
from comfysnap_server.operations.starts import percentile
from tests.control_plane import ControlPlane
from tests.server.operations.conftest import COMFYSNAP, Command, environment

pytestmark = [pytest.mark.modal, pytest.mark.timeout(600)]


def test_starts_are_measured_with_and_without_a_snapshot(
    deployed: ControlPlane, comfysnap: Command, tmp_path: Path
) -> None:
    before = deployed.function("Worker.*").definition.autoscaler_settings.scaledown_window
    frozen = deployed.freeze("Worker.*", 2)
    chart = tmp_path / "starts.png"
    arguments = ("measure", "--starts", "2", "--baseline", "--yes", "--json")
    done = comfysnap(*arguments, "--chart", str(chart))
    assert "4 starts of pool default on CPU" in done.stderr
    assert "$" in done.stderr
    found = json.loads(done.stdout)
    assert "simulated engine; not on Modal's cloud, but http://127.0.0.1" in found["title"]
    rows = {(row["kind"], row["phase"]): row for row in found["starts"]}
    assert {kind for kind, _ in rows} == {"restored", "no snapshot"}
    for kind in ("restored", "no snapshot"):
        whole = rows[kind, "to first picture"]
        assert whole["count"] == rows[kind, "to first input"]["count"] == 2
        assert 0 < whole["p50"] <= whole["p90"] <= whole["p95"]
    assert all(container.served == 1 for container in frozen)
    with Image.open(chart) as picture:
        assert picture.format == "PNG"
    settings = deployed.function("Worker.*").definition.autoscaler_settings
    assert settings.scaledown_window == before
    assert [app.name for app in deployed.state.apps.values() if app.version] == ["studio"]
    assert not [name for _, name in deployed.state.named if "baseline" in name]


def test_an_interrupted_measurement_cancels_its_job_and_restores_the_autoscaler(
    deployed: ControlPlane, project: Path
) -> None:
    deployed.scale_to_zero("Worker_big.*")
    command = (COMFYSNAP, "measure", "sdxl", "prompt=a fox", "steps=150", "--starts", "2", "--yes")
    before = len(deployed.calls("Worker_big.*"))
    with subprocess.Popen(command, cwd=project, env=environment(deployed)) as running:
        while not any(c.running for c in deployed.pool("Worker_big.*").containers):
            assert running.poll() is None
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) != 0
    (call,) = deployed.calls("Worker_big.*")[before:]
    assert call.input.cancelled
    settings = deployed.function("Worker_big.*").definition.autoscaler_settings
    assert settings.scaledown_window == 30


def test_nothing_runs_before_the_cost_is_agreed_to(
    deployed: ControlPlane, comfysnap: Command
) -> None:
    before = len(deployed.calls("Worker.*"))
    assert "Go on?" in comfysnap("measure", "hello", answer="n\n", code=1).stderr
    assert len(deployed.calls("Worker.*")) == before


def test_inputs_are_checked_first(deployed: ControlPlane, comfysnap: Command) -> None:
    assert "missing inputs: prompt" in comfysnap("measure", "sdxl", code=2).stderr
    assert "NAME=VALUE" in comfysnap("measure", "hello", "colour=3", code=2).stderr
    assert "unknown workflow" in comfysnap("measure", "nope", code=1).stderr


def test_percentiles_are_between_the_values() -> None:
    assert [percentile([1.0], share) for share in (50, 95)] == [1.0, 1.0]
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert 2.8 < percentile([1.0, 2.0, 3.0], 95) < 3.0


def test_a_chart_has_a_bar_for_each_kind(tmp_path: Path) -> None:
    phases = ("queue", "start", "run", "to first picture")
    rows = [
        PhaseSeconds(kind, phase, 20, 1.0, 2.0, 2.5)
        for kind in ("restored", "no snapshot")
        for phase in phases
    ]
    draw_starts(rows, "starts", tmp_path / "two.png")
    draw_starts(rows[:4], "starts", tmp_path / "one.png")
    heights: list[int] = []
    for name in ("one", "two"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            heights.append(picture.height)
    assert heights[0] < heights[1]
