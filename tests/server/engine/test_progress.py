"""Progress of a job is computed from the events of its nodes."""

from hypothesis import given
from hypothesis import strategies as st

from comfysnap_schema.comfy.graph import Graph
from comfysnap_server.engine.progress import SAMPLER_WEIGHT, ProgressMeter, weight_of


def graph_of(*classes: str) -> Graph:
    return {str(i): {"class_type": name, "inputs": {}} for i, name in enumerate(classes)}


def test_nodes_of_equal_weight_share_the_fraction() -> None:
    meter = ProgressMeter(graph_of("A", "B", "C", "D"), ["0", "1", "2", "3"])
    meter.start("0")
    assert meter.finish("0").fraction == 0.25
    assert meter.step("1", 1, 2).fraction == 0.375
    assert meter.finish("1").fraction == 0.5


def test_a_cached_node_is_left_out() -> None:
    meter = ProgressMeter(graph_of("A", "B", "C"), ["0", "1", "2"])
    meter.skip(["0", "1"])
    assert meter.step("2", 1, 2).fraction == 0.5
    assert meter.finish("2").fraction == 1.0


def test_a_node_that_joins_late_does_not_decrease_the_fraction() -> None:
    meter = ProgressMeter(graph_of("A", "B"), ["0", "1"])
    half = meter.finish("0").fraction
    assert meter.start("expanded.1").fraction == half
    meter.finish("1")
    assert meter.finish("expanded.1").fraction == 1.0


def test_the_running_node_is_reported_with_class_and_title() -> None:
    graph: Graph = {"3": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "Draw"}}}
    progress = ProgressMeter(graph, ["3"]).step("3", 2, 8)
    assert (progress.node, progress.node_class, progress.node_title) == ("3", "KSampler", "Draw")
    assert (progress.step, progress.steps, progress.fraction) == (2, 8, 0.25)


def test_a_sampler_weighs_more_than_other_nodes() -> None:
    for name in ("KSampler", "KSamplerAdvanced", "SamplerCustomAdvanced", "WanVideoSampler"):
        assert weight_of(name) == SAMPLER_WEIGHT
    for name in ("KSamplerSelect", "ModelSamplingFlux", "SamplerEulerAncestral", "VAEDecode"):
        assert weight_of(name) == 1.0


def test_an_empty_plan_does_not_divide_by_zero() -> None:
    assert ProgressMeter({}, []).skip(["1"]).fraction == 0.0


@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["start", "step", "finish", "skip"]),
            st.sampled_from(["0", "1", "2", "late"]),
            st.integers(-2, 12),
            st.integers(-1, 10),
        ),
        max_size=40,
    )
)
def test_the_fraction_never_decreases_and_stays_within_bounds(
    events: list[tuple[str, str, int, int]],
) -> None:
    meter = ProgressMeter(graph_of("KSampler", "B", "C"), ["0", "1", "2"])
    last = 0.0
    for event, node, step, steps in events:
        match event:
            case "step":
                progress = meter.step(node, step, steps)
            case "start":
                progress = meter.start(node)
            case "finish":
                progress = meter.finish(node)
            case _:
                progress = meter.skip([node])
        assert last <= progress.fraction <= 1.0
        assert meter.now is progress
        last = progress.fraction
