"""What ``comfysnap deploy --dry-run`` says of pools and of costs."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from comfysnap_server.deploy import plan_lines, read_deployment
from comfysnap_server.deploy.prices import PRICES_OF, SOURCE, dollars, gateway_rate, worker_rate

WriteProject = Callable[[str], Path]
WriteWorkflow = Callable[[str], Path]


@pytest.fixture
def plan(write: WriteProject, write_workflow: WriteWorkflow) -> Callable[[str], dict[str, str]]:
    """Lines of the plan by part and name."""

    def work(deploy: str) -> dict[str, str]:
        for name in ("one", "two"):
            write_workflow(name)
        deployment = read_deployment(write(f"[deploy]\n{deploy}"))
        return {f"{line.part} {line.name}": line.text for line in plan_lines(deployment)}

    return work


def test_the_plan_shows_each_pool_its_workflows_and_what_it_costs(
    plan: Callable[[str], dict[str, str]],
) -> None:
    lines = plan('[deploy.pools.video]\nworkflows = ["two"]\ngpu = "H100"\nmin_containers = 1')
    assert lines["workflow two"].endswith("pool video")
    assert "runs one; comfyui on L40S" in lines["function Worker"]
    assert "runs two; comfyui on H100" in lines["function Worker_video"]
    assert lines["image Worker_video"] == "that of Worker"
    assert "$0 an hour at rest (scales to zero)" in lines["cost Worker"]
    assert "(1 always run)" in lines["cost Worker_video"]
    assert PRICES_OF in lines["cost prices"]
    assert SOURCE in lines["cost prices"]


def test_a_pool_with_packages_of_its_own_has_an_image_of_its_own(
    plan: Callable[[str], dict[str, str]],
) -> None:
    lines = plan('[deploy.pools.video]\nworkflows = ["two"]\napt = ["espeak-ng"]')
    assert "espeak-ng" in lines["image Worker_video 1"]
    assert "espeak-ng" not in lines["image Worker 1"]


def test_costs_are_those_of_the_requested_resources(write: WriteProject) -> None:
    rate = worker_rate(read_deployment(write("")))
    assert rate is not None
    assert rate.of(10) == pytest.approx(10 * (0.000542 + 2 * 0.0000131 + 16 * 0.00000222))
    assert rate.tail == pytest.approx(6 * rate.of(10))
    assert rate.at_rest == 0
    assert gateway_rate(read_deployment(write(""))).of(3600) < 0.02
    two = worker_rate(read_deployment(write('[deploy]\ngpu = "H100:2"\nmin_containers = 2')))
    assert two is not None
    assert two.at_rest == pytest.approx(2 * two.of(3600))
    assert two.tail == 0


def test_a_gpu_without_a_known_price_has_none(
    write: WriteProject, plan: Callable[[str], dict[str, str]]
) -> None:
    assert worker_rate(read_deployment(write('[deploy]\ngpu = "RTX-PRO-6000"'))) is None
    assert "no price known" in plan('gpu = "RTX-PRO-6000"')["cost Worker"]


def test_amounts_are_readable_and_the_table_is_dated() -> None:
    assert [dollars(x) for x in (0, 0.00541, 0.0123, 2.0666)] == [
        "$0",
        "$0.0054",
        "$0.012",
        "$2.07",
    ]
    assert date.fromisoformat(PRICES_OF)
