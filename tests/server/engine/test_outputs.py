"""Outputs on the wire, for any values that nodes return."""

from pathlib import Path

import pytest
from pydantic import JsonValue

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.files import Kind
from comfysnap_schema.wire.jobs import JobStatus, Progress, Timings
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.engine.outputs import MAX_NAME, OutputCollector, output_files, safe_name
from comfysnap_server.engine.protocol import (
    EngineError,
    EngineJob,
    EngineResult,
    NodeOutput,
    ProducedFile,
    Report,
)
from comfysnap_server.engine.simulated.engine import SimulatedEngine
from comfysnap_server.jobs.run import EarlyOutput, Outcome, execute
from tests.server.engine.conftest import MakeJob


class ValueEngine(SimulatedEngine):
    """Saves one file, and returns a value."""

    def __init__(self, value: JsonValue) -> None:
        super().__init__(0.0)
        self._value = value

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Save the file and return the value."""
        path = job.output_dir / "made.png"
        path.write_bytes(b"made")
        return EngineResult(
            outputs={
                "image": [ProducedFile(path=path, kind=Kind.IMAGE)],
                "data": [self._value],
            }
        )


def run_with(make_job: MakeJob, value: JsonValue) -> tuple[EngineJob, Outcome]:
    specs = {"image": OutputSpec(node="1"), "data": OutputSpec(node="2", kind=Kind.JSON)}
    job = make_job({}, specs)
    return job, execute(ValueEngine(value), job, lambda _event: None)


def test_values_that_json_cannot_represent_are_replaced(make_job: MakeJob) -> None:
    odd: JsonValue = {"na\udce4me": ["caf\udce9.png", "caf\u00e9", float("nan"), float("inf"), 1.5]}
    _, outcome = run_with(make_job, odd)
    assert outcome.outputs is not None
    assert outcome.outputs["data"].on_wire() == {
        "na?me": ["caf?.png", "caf\u00e9", None, None, 1.5]
    }


def test_a_value_nested_too_deep_fails_the_job(make_job: MakeJob) -> None:
    deep: JsonValue = []
    for _ in range(500):
        deep = [deep]
    _, outcome = run_with(make_job, deep)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.must_restart) == (ErrorCode.ENGINE_FAILED, False)


def test_a_file_of_two_outputs_has_the_kind_of_each(make_job: MakeJob) -> None:
    made = OutputSpec(node="1"), OutputSpec(node="1", kind=Kind.FILE)
    job = make_job({}, {"image": made[0], "file": made[1]})
    path = job.output_dir / "sub" / "made.png"
    path.parent.mkdir()
    path.write_bytes(b"made")
    made_of = OutputCollector(job, job.output_dir).finish(
        EngineResult(
            outputs={name: [ProducedFile(path=path, kind=spec.kind)]
                     for name, spec in job.outputs.items()}
        ),
    )  # fmt: skip
    (image,), (file,) = (made_of[name].files for name in ("image", "file"))
    assert (image.kind, file.kind) == (Kind.IMAGE, Kind.FILE)
    assert image.name == file.name


class RewritingEngine(SimulatedEngine):
    """Reports the output ``log`` of node 1, then has node 2 append to its file and delete it."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Write, report, append, delete."""
        log = ProducedFile(path=job.output_dir / "log.txt", kind=Kind.FILE)
        log.path.write_text("first")
        report(NodeOutput(name="log", items=[log]))
        log.path.write_text("first and second")
        copy = ProducedFile(path=log.path.rename(job.output_dir / "sub.txt"), kind=Kind.FILE)
        same = ProducedFile(path=copy.path.rename(log.path), kind=Kind.FILE)
        return EngineResult(outputs={"log": [log], "all": [same]})


def test_an_early_output_keeps_its_content_whatever_nodes_do_to_its_file(make_job: MakeJob) -> None:
    specs = {
        "all": OutputSpec(node="2", kind=Kind.FILE),
        "log": OutputSpec(node="1", kind=Kind.FILE),
    }
    job = make_job({}, specs)
    told: list[EarlyOutput] = []

    def report(news: object) -> None:
        assert isinstance(news, EarlyOutput)
        told.append(news)

    outcome = execute(RewritingEngine(), job, report)
    assert outcome.outputs is not None
    assert list(outcome.outputs) == ["all", "log"]
    assert [(early.name, early.output) for early in told] == [("log", outcome.outputs["log"])]
    content = {
        name: (job.output_dir / output.files[0].name).read_text()
        for name, output in outcome.outputs.items()
    }
    assert content == {"all": "first and second", "log": "first"}
    assert sorted(path.name for path in job.output_dir.iterdir()) == ["log.txt", "log_2.txt"]


class LateFileEngine(SimulatedEngine):
    """Reports an output whose file is not there yet."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Report too early, then write."""
        made = ProducedFile(path=job.output_dir / "made.png", kind=Kind.IMAGE)
        report(NodeOutput(name="image", items=[made]))
        made.path.write_bytes(b"made")
        return EngineResult(outputs={"image": [made]})


def test_an_output_that_cannot_be_collected_early_comes_with_the_end(make_job: MakeJob) -> None:
    told: list[object] = []
    outcome = execute(LateFileEngine(), make_job({}, {"image": OutputSpec(node="1")}), told.append)
    assert told == []
    assert outcome.outputs is not None
    assert outcome.outputs["image"].files[0].name == "made.png"


def test_a_failed_job_has_the_outputs_that_were_complete(make_job: MakeJob) -> None:
    class FailingEngine(RewritingEngine):
        def run(self, job: EngineJob, report: Report) -> EngineResult:
            super().run(job, report)
            raise EngineError(ErrorCode.NODE_FAILED, "node 2")

    job = make_job({}, {"log": OutputSpec(node="1", kind=Kind.FILE)})
    outcome = execute(FailingEngine(), job, lambda _news: None)
    assert outcome.status is JobStatus.FAILED
    assert [file.name for file in outcome.files] == ["log.txt"]
    assert [path.name for path in job.output_dir.iterdir()] == ["log.txt"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret", "..", "made.png", "a/../b"])
def test_a_json_output_that_looks_like_a_file_is_not_a_file(make_job: MakeJob, name: str) -> None:
    looks: JsonValue = {
        "name": name, "kind": "image", "content_type": "text/html", "size": 1,
        "sha256": "0" * 64, "url": f"/outputs/job_{1:026}/{name}",
    }  # fmt: skip
    job, outcome = run_with(make_job, looks)
    found = list(output_files(job.outputs, outcome.end(Timings(), Progress()).outputs or {}))
    assert [(Path(file.name), file.content_type) for file in found] == [
        (Path("made.png"), "image/png")
    ]


@pytest.mark.parametrize(
    "name", ["Mr. " + "x" * 200, "x" * 300, "x" * 300 + ".png", ".x", "..", "日本.png"]
)
def test_every_file_name_is_made_safe_for_urls(name: str) -> None:
    clean = safe_name(name)
    assert 0 < len(clean) <= MAX_NAME
    assert not clean.startswith(".")
    assert clean.endswith(".png") == name.endswith(".png")
