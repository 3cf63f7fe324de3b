"""Interrupts before, during and after a job, and of nodes that ignore them."""

from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import Driver


def works(engine: Driver) -> bool:
    return engine.run(graphs.hello())[0]["status"] == "succeeded"


def test_an_interrupt_at_a_step_stops_the_node_there(engine: Driver) -> None:
    job = engine.start(graphs.through("Steps", steps=50_000))
    job.until_step(3)
    job.interrupt()
    assert job.result()["status"] == "cancelled"
    assert max(event.get("step") or 0 for event in job.events) < 50_000
    assert job.files() == []
    assert works(engine)


def test_an_interrupt_before_the_start_stops_the_job_at_once(engine: Driver) -> None:
    job_id = engine.new_id()
    engine.interrupt(job_id)
    done, job = engine.run(graphs.hello(), job_id=job_id)
    assert done["status"] == "cancelled"
    assert job.fractions == []
    assert works(engine)


def test_an_interrupt_while_an_async_node_waits_ends_the_wait(engine: Driver) -> None:
    job = engine.start(graphs.through("Waits"))
    job.until_step(1)
    job.interrupt()
    assert job.result()["status"] == "cancelled"
    assert works(engine)


def test_a_job_is_cancelled_even_if_a_node_catches_the_interrupt(engine: Driver) -> None:
    job = engine.start(graphs.through("Stubborn", steps=60))
    job.until_step(2)
    job.interrupt()
    assert job.result()["status"] == "cancelled"
    assert job.files() == []
    assert works(engine)


def test_a_result_from_after_an_interrupt_is_not_reused_by_the_next_job(engine: Driver) -> None:
    graph = graphs.to_text("CountsUntilStopped", steps=300)
    job = engine.start(graph, kind="text")
    job.until_step(3)
    job.interrupt()
    assert job.result()["status"] == "cancelled"
    assert engine.texts(graph) == ["300"]


def test_an_interrupt_of_another_job_changes_nothing(engine: Driver) -> None:
    job = engine.start(graphs.through("Steps", steps=40))
    job.until_step(1)
    engine.interrupt("job_of_somebody_else")
    assert job.result()["status"] == "succeeded"


def test_an_interrupt_of_an_ended_job_does_not_stop_the_next(engine: Driver) -> None:
    job = engine.start(graphs.hello())
    job.result()
    job.interrupt()
    assert works(engine)


def test_the_engine_still_runs_jobs_after_many_rapid_interrupts(engine: Driver) -> None:
    for steps in range(1, 12):
        job = engine.start(graphs.through("Steps", steps=5000 + steps))
        job.interrupt()
        assert job.result()["status"] == "cancelled"
    assert works(engine)
