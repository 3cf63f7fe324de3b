"""Failed jobs have a reason and a field, and the engine can run the next one."""

import pytest

from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import Driver


def works(engine: Driver) -> bool:
    return engine.run(graphs.hello())[0]["status"] == "succeeded"


def test_a_node_that_raises_names_field_class_title_and_message(engine: Driver) -> None:
    graph = graphs.through("Fails", text="no such luck")
    graph["2"]["_meta"] = {"title": "The unlucky one"}
    done, _ = engine.run(graph, fields={"2.inputs.text": "luck"})
    assert (done["status"], done["error"]["code"]) == ("failed", "node_failed")
    (problem,) = done["error"]["fields"]
    assert (problem["field"], problem["node"]) == ("luck", "2")
    for part in ("The unlucky one", "Fails", "no such luck"):
        assert part in done["error"]["detail"]
    assert "Traceback" not in str(done)
    assert "packs/tools/__init__.py" not in str(done)
    assert 'packs/tools/__init__.py", line' in engine.log
    assert works(engine)


def test_an_earlier_failure_does_not_fail_the_next_job(engine: Driver) -> None:
    engine.run(graphs.through("Fails", text="x"))
    assert works(engine)


def test_an_unknown_class_is_an_invalid_graph(engine: Driver) -> None:
    done, _ = engine.run({"1": graphs.node("NoSuchNode")})
    assert done["error"]["code"] == "graph_invalid"
    assert "NoSuchNode" in done["error"]["detail"]


def test_an_unknown_class_names_the_node_and_its_title(engine: Driver) -> None:
    graph = {**graphs.hello(), "7": {**graphs.node("NoSuchNode"), "_meta": {"title": "Mine"}}}
    error = engine.run(graph, output="3")[0]["error"]
    text = " ".join([error["detail"], *(problem["message"] for problem in error["fields"])])
    assert "NoSuchNode" in text
    assert "7" in text


def test_a_graph_without_outputs_is_invalid(engine: Driver) -> None:
    graph = graphs.hello()
    del graph["3"]
    done, _ = engine.run(graph, output="1")
    assert done["error"]["code"] == "graph_invalid"


def test_a_value_out_of_range_names_its_api_field(engine: Driver) -> None:
    done, _ = engine.run(graphs.hello(count=0), fields={"1.inputs.batch_size": "count"})
    assert done["error"]["code"] == "graph_invalid"
    assert [(f["field"], f["node"]) for f in done["error"]["fields"]] == [("count", "1")]


def test_one_invalid_output_of_two_fails_the_job_before_it_starts(engine: Driver) -> None:
    graph = {**graphs.hello(), "8": graphs.node("ImageInvert")}
    graph["9"] = graphs.node("SaveImage", images=["8", 0], filename_prefix="bad")
    done, job = engine.run(graph, output="3")
    assert done["error"]["code"] == "graph_invalid"
    assert {problem["node"] for problem in done["error"]["fields"]} == {"8"}
    assert job.files() == []


def test_a_number_written_as_text_is_accepted_like_in_comfyui(engine: Driver) -> None:
    graph = graphs.hello()
    graph["1"]["inputs"]["color"] = "16"
    first, _ = engine.run(graph)
    second, _ = engine.run(graph)
    assert first["status"] == second["status"] == "succeeded"


def test_out_of_memory_has_its_own_code_and_unloads_the_models(engine: Driver) -> None:
    done, _ = engine.run(graphs.through("RunsOutOfMemory"))
    assert done["error"]["code"] == "out_of_memory"
    assert works(engine)


def test_a_blocked_output_fails_with_its_reason_each_time(engine: Driver) -> None:
    graph = graphs.through("Blocks")
    graph["9"] = graphs.node("ImageInvert", image=["2", 0])
    graph["3"]["inputs"]["images"] = ["9", 0]
    for _ in range(2):
        done, _ = engine.run(graph, output="3")
        assert done["error"]["code"] == "node_failed"
        assert "not today" in done["error"]["detail"]


@pytest.mark.parametrize("way", ["exit", "cancel", "unknown"])
def test_a_node_that_raises_a_base_exception_only_fails_its_job(engine: Driver, way: str) -> None:
    done, _ = engine.run(graphs.through("Ends", way=way))
    assert done["error"]["code"] == "node_failed"
    assert {problem["node"] for problem in done["error"]["fields"]} == {"2"}
    assert works(engine)


def test_an_exit_during_validation_is_not_attributed_to_a_node_of_another_job(
    engine: Driver,
) -> None:
    engine.run(graphs.through("Ends", way="exit"))
    done, _ = engine.run(graphs.through("EndsWhenChecked", text="over"))
    assert done["error"]["code"] == "node_failed"
    assert done["error"]["fields"] == []
    assert works(engine)


def test_a_child_that_a_node_forks_does_not_end_the_job(engine: Driver) -> None:
    done, job = engine.run(graphs.through("Ends", way="child"))
    assert done["status"] == "succeeded", done
    assert len([event for event in job.events if event["event"] == "done"]) == 1


def test_a_broken_device_is_not_reported_as_a_failure_of_the_job(engine: Driver) -> None:
    done, _ = engine.run(graphs.through("BreaksTheDevice"))
    assert done["error"]["code"] == "engine_failed"


@pytest.mark.parametrize("prefix", ["../escaped", "/tmp/escaped"])  # noqa: S108  it must not be written
def test_a_file_cannot_be_saved_outside_the_jobs_folder(engine: Driver, prefix: str) -> None:
    done, job = engine.run(graphs.hello(prefix=prefix))
    assert done["error"]["code"] == "node_failed"
    assert job.files() == []


def test_a_node_that_reads_the_drawing_gets_it_or_says_that_it_is_missing(engine: Driver) -> None:
    graph = graphs.to_text("ReadsDrawing", text="nodes:")
    done, _ = engine.run(graph, kind="text")
    assert done["error"]["code"] == "node_failed"
    assert "comfysnap update" in done["error"]["detail"]
    assert engine.texts(graph, drawing={"nodes": [{"id": 1}, {"id": 2}]}) == ["nodes: 2"]
    done, _ = engine.run(graph, kind="text", drawing={"links": []})
    assert "comfysnap update" not in done["error"]["detail"]


def test_another_failure_does_not_mention_the_drawing(engine: Driver) -> None:
    done, _ = engine.run(graphs.through("Fails", text="no luck"))
    assert "comfysnap update" not in done["error"]["detail"]
