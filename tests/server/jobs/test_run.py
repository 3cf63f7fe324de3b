"""One attempt at a job: stopped at any moment, it ends as cancelled or in its own way."""

import threading
from pathlib import Path

import pytest

from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.jobs import JobStatus, Progress, Timings
from comfysnap_server.engine.simulated.engine import SimulatedEngine
from comfysnap_server.jobs.endings import Ending
from comfysnap_server.jobs.files import FileStore
from comfysnap_server.jobs.request import JobRequest
from comfysnap_server.jobs.run import JobRun, Outcome, ended
from tests.server.backends.suite import FOREVER, request, sampling


class RecordingEngine(SimulatedEngine):
    """Notes which jobs it was asked to stop."""

    def __init__(self, step_seconds: float = 0.0) -> None:
        super().__init__(step_seconds)
        self.interrupted: list[str] = []

    def interrupt(self, job_id: str) -> None:
        self.interrupted.append(job_id)
        super().interrupt(job_id)


class Attempt:
    """A job on a thread of its own."""

    def __init__(self, folder: Path, asked: JobRequest, step_seconds: float = 0.0) -> None:
        for name in ("input", "output"):
            (folder / name).mkdir()
        self.engine = RecordingEngine(step_seconds)
        self.sampling = threading.Event()
        self.run = JobRun(
            self.engine,
            asked,
            input_dir=folder / "input",
            output_dir=folder / "output",
            files=FileStore(folder / "files"),
            report=self._take,
        )
        self.outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._execute)

    def start(self) -> None:
        self._thread.start()

    def result(self) -> Outcome:
        self._thread.join(60)
        assert self.outcome is not None
        return self.outcome

    def _execute(self) -> None:
        self.outcome = self.run.execute()

    def _take(self, news: object) -> None:
        if isinstance(news, Progress) and news.step:
            self.sampling.set()


@pytest.mark.parametrize("graph", [sampling(2), sampling(FOREVER)])
def test_a_job_that_is_stopped_before_it_starts_does_not_run(graph: Graph, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, request(graph))
    attempt.run.interrupt()
    assert attempt.run.execute().status is JobStatus.CANCELLED
    assert not attempt.sampling.is_set()
    assert attempt.engine.interrupted == []


def test_a_job_that_is_stopped_while_it_runs_is_cancelled_with_its_time(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, request(sampling(FOREVER)), step_seconds=0.01)
    attempt.start()
    assert attempt.sampling.wait(60)
    attempt.run.interrupt()
    outcome = attempt.result()
    assert outcome.status is JobStatus.CANCELLED
    assert outcome.timings.run is not None
    assert attempt.engine.interrupted == [attempt.run.request.job_id]


def test_the_reason_of_a_stop_replaces_only_the_end_that_the_stop_made(tmp_path: Path) -> None:
    stopped = ended(Ending.INTERRUPTED).stopped_by(Ending.TIMED_OUT)
    assert stopped.status is JobStatus.TIMED_OUT
    assert stopped.error is not None
    assert stopped.error.code is ErrorCode.JOB_TIMED_OUT
    finished = Attempt(tmp_path, request()).run.execute()
    assert finished.stopped_by(Ending.TIMED_OUT) is finished
    failed = ended(Ending.OUT_OF_MEMORY)
    assert failed.stopped_by(Ending.CANCELLED) is failed


def test_the_end_of_a_job_has_its_outputs_as_clients_read_them(tmp_path: Path) -> None:
    outcome = Attempt(tmp_path, request()).run.execute()
    end = outcome.end(Timings(queue=1.5), Progress(fraction=0.5, node="9"))
    assert outcome.outputs is not None
    (file,) = outcome.outputs["image"].files
    assert end.outputs == {"image": file.model_dump(mode="json")}
    assert (end.timings.queue, end.progress.fraction, end.progress.node) == (1.5, 1.0, "9")
    assert set(end.timings.nodes) == {"3", "5", "6", "9"}
