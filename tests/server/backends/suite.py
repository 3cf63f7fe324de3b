"""What every backend does, as tests that take the fixture ``backend``.

A test module of a backend defines that fixture (started, running the simulated engine with
``step_seconds`` of about ``STEP_S``) and imports everything from here.
"""

import asyncio
import hashlib
import io
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from PIL import Image

from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.files import FileBySha256, Kind
from comfysnap_schema.wire.jobs import JobEvent, JobRecord, JobStatus
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.backends.protocol import Backend, OwnerBudget, PurgeRequest, StoredFile
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs.request import JobRequest

STEP_S = 0.02
PATIENCE_S = 60.0
FOREVER = 10_000
"""Steps of a job that does not end by itself within a test."""


def sampling(steps: int) -> Graph:
    """A graph that takes ``steps`` steps and makes one picture."""
    return {
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 48}},
        "5": {
            "class_type": "KSampler",
            "inputs": {"seed": 7, "steps": steps, "latent_image": ["3", 0]},
            "_meta": {"title": "Draw"},
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["6", 0]}},
    }


def loading(name: str) -> Graph:
    """A graph that loads an input file and saves it."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    }


def request(graph: Graph | None = None, **options: Any) -> JobRequest:
    """A request of ``anna`` for a short job."""
    defaults: dict[str, Any] = {
        "job_id": f"job_{secrets.token_hex(13)}",
        "owner": "anna",
        "workflow": "draw",
        "inputs": {"seed": 7},
        "graph": graph or sampling(2),
        "graph_hash": "0" * 64,
        "outputs": {"image": OutputSpec(node="9")},
        "fields": {"1.inputs.image": "photo", "5.inputs.seed": "seed"},
        "timeout": 60.0,
        "created_at": datetime.now(UTC),
    }
    return JobRequest(**{**defaults, **options})


async def finish(backend: Backend, job: JobRecord, owner: str = "anna") -> JobRecord:
    """The job once it is final."""
    async with asyncio.timeout(PATIENCE_S):
        while not job.is_final:
            job = await backend.wait(owner, job.id, after=None, timeout=25)
    return job


async def run(backend: Backend, asked: JobRequest) -> JobRecord:
    """Submit and wait for the end."""
    return await finish(backend, (await backend.submit(asked)).job, asked.owner)


async def until_sampling(backend: Backend, job: JobRecord) -> JobRecord:
    """The job once it told of a step."""
    async with asyncio.timeout(PATIENCE_S):
        while not job.progress.step and not job.is_final:
            job = await backend.wait("anna", job.id, after=job.version, timeout=25)
    return job


async def once(data: bytes) -> AsyncIterator[bytes]:
    """``data`` as a stream."""
    yield data


def png() -> bytes:
    """A small picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (1, 2, 3)).save(buffer, "PNG")
    return buffer.getvalue()


async def test_a_job_runs_to_its_end_and_hands_out_its_file(backend: Backend) -> None:
    submitted = await backend.submit(request(labels={"team": "red"}))
    assert submitted.replayed is False
    assert submitted.job.status in (JobStatus.QUEUED, JobStatus.RUNNING)
    job = await finish(backend, submitted.job)
    assert (job.status, job.error, job.attempt) == (JobStatus.SUCCEEDED, None, 1)
    assert (job.inputs, job.labels, job.graph_hash) == ({"seed": 7}, {"team": "red"}, "0" * 64)
    assert job.progress.fraction == 1.0
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.created_at <= job.started_at <= job.finished_at
    told: Any = (job.outputs or {})["image"]
    file = await stored(backend, job.id, told["name"])
    content = file.path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert hashlib.sha256(content).hexdigest() == file.sha256 == told["sha256"]
    assert len(content) == file.size == told["size"]
    assert file.content_type == told["content_type"] == "image/png"
    assert told["url"] == f"/outputs/{job.id}/{told['name']}"


async def test_the_times_of_a_job_are_told(backend: Backend) -> None:
    job = await run(backend, request())
    times = job.timings
    assert times.queue is not None
    assert times.start is not None
    assert times.start_kind in ("cold", "warm", "restored")
    assert times.run is not None
    assert times.run >= 2 * STEP_S
    assert set(times.nodes) == {"3", "5", "6", "9"}


async def test_a_text_output_is_a_value(backend: Backend) -> None:
    graph: Graph = {"9": {"class_type": "PreviewAny", "inputs": {"source": "a fox"}}}
    job = await run(backend, request(graph, outputs={"text": OutputSpec(node="9", kind=Kind.TEXT)}))
    assert job.outputs == {"text": "a fox"}


async def test_a_failing_node_fails_the_job_and_names_the_field(backend: Backend) -> None:
    job = await run(backend, request(loading("not-there.png")))
    assert job.status is JobStatus.FAILED
    assert job.outputs is None
    assert job.error is not None
    assert job.error.code is ErrorCode.NODE_FAILED
    assert [(found.field, found.node) for found in job.error.fields] == [("photo", "1")]


async def test_an_output_node_that_makes_nothing_fails_the_job(backend: Backend) -> None:
    wanted = {"text": OutputSpec(node="9", kind=Kind.TEXT)}
    job = await run(backend, request(outputs=wanted))
    assert job.error is not None
    assert job.error.code is ErrorCode.OUTPUT_MISSING


async def test_a_job_after_a_failed_one_runs(backend: Backend) -> None:
    await run(backend, request(loading("not-there.png")))
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED


async def test_waiting_for_news_tells_each_step_and_never_goes_back(backend: Backend) -> None:
    job = (await backend.submit(request(sampling(60)))).job
    seen = [job]
    async with asyncio.timeout(PATIENCE_S):
        while not seen[-1].is_final:
            seen.append(await backend.wait("anna", job.id, after=seen[-1].version, timeout=25))
    versions = [told.version for told in seen]
    assert versions == sorted(set(versions))
    running = [told.progress for told in seen if told.status is JobStatus.RUNNING]
    assert [p.fraction for p in running] == sorted(p.fraction for p in running)
    steps = [p for p in running if p.step]
    assert len({p.step for p in steps}) >= 2  # quick states may come as one
    assert {(p.node, p.node_class, p.node_title, p.steps) for p in steps} == {
        ("5", "KSampler", "Draw", 60)
    }


async def test_a_wait_ends_with_what_is_known(backend: Backend) -> None:
    job = (await backend.submit(request(sampling(FOREVER)))).job
    told = await backend.wait("anna", job.id, after=None, timeout=0.05)
    assert not told.is_final
    await backend.cancel("anna", job.id)


async def test_a_wait_for_a_finished_job_returns_at_once(backend: Backend) -> None:
    job = await run(backend, request())
    async with asyncio.timeout(20):
        told = await backend.wait("anna", job.id, after=job.version + 10**9, timeout=25)
    assert told.status is JobStatus.SUCCEEDED


async def test_events_tell_states_and_end_with_the_final_job(backend: Backend) -> None:
    job = (await backend.submit(request(sampling(20), previews=True))).job
    events: list[JobEvent] = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in backend.events("anna", job.id, after=None):
            events.append(event)
    types = [event.type for event in events]
    assert {"status", "progress", "preview", "output", "done"} == set(types)
    assert types.index("done") == len(types) - 1
    assert events[-1].job is not None
    assert events[-1].job.status is JobStatus.SUCCEEDED
    assert [e.job.status for e in events if e.type == "status" and e.job][-1] is JobStatus.RUNNING
    fractions = [e.progress.fraction for e in events if e.progress]
    assert fractions == sorted(fractions)
    previews = [e.preview for e in events if e.preview]
    assert previews[0].content_type == "image/jpeg"


async def test_events_of_a_finished_job_are_its_outputs_and_its_end(backend: Backend) -> None:
    job = await run(backend, request())
    events = [event async for event in backend.events("anna", job.id, after=job.version)]
    assert [event.type for event in events] == ["output", "done"]
    assert events[0].output is not None
    assert {events[0].output.name: events[0].output.value} == job.outputs


def in_two_parts(steps: int, **changes: Any) -> JobRequest:
    """A request whose output ``draft`` is complete before the sampling for ``image`` begins."""
    graph: Graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 6, "height": 4}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
        **sampling(steps),
    }
    return request(graph, outputs={
        "image": OutputSpec(node="9"), "draft": OutputSpec(node="2", many=True),
    }, **changes)  # fmt: skip


async def until_draft(backend: Backend, job: JobRecord) -> JobRecord:
    """The running job once its first output is complete."""
    async with asyncio.timeout(PATIENCE_S):
        while not job.outputs:
            assert not job.is_final
            job = await backend.wait("anna", job.id, after=job.version, timeout=25)
    assert job.status is JobStatus.RUNNING
    assert list(job.outputs) == ["draft"]
    return job


async def stored(backend: Backend, job_id: str, name: str) -> StoredFile:
    """An output file of the owner anna."""
    file = await backend.open_output("anna", job_id, name)
    assert isinstance(file, StoredFile)
    return file


async def check_draft(backend: Backend, job: JobRecord) -> None:
    """The file of the output ``draft`` is served."""
    draft: Any = (job.outputs or {})["draft"]
    (told,) = draft
    file = await stored(backend, job.id, told["name"])
    content = file.path.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (told["size"], told["sha256"])
    assert content.startswith(b"\x89PNG")


async def test_an_output_is_served_while_the_job_runs_and_never_changes(backend: Backend) -> None:
    submitted = await backend.submit(in_two_parts(100))
    job = await until_draft(backend, submitted.job)
    await check_draft(backend, job)
    ended = await finish(backend, job)
    assert ended.status is JobStatus.SUCCEEDED
    assert ended.outputs is not None
    assert list(ended.outputs) == ["image", "draft"]
    assert ended.outputs["draft"] == (job.outputs or {})["draft"]
    await check_draft(backend, ended)


async def test_each_output_is_an_event_once_as_soon_as_it_is_complete(backend: Backend) -> None:
    job = (await backend.submit(in_two_parts(100))).job
    events: list[JobEvent] = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in backend.events("anna", job.id, after=None):
            events.append(event)
    outputs = [event.output for event in events if event.output]
    assert [output.name for output in outputs] == ["draft", "image"]
    types = [event.type for event in events]
    assert types[types.index("output") + 1 :].count("progress") > 1
    assert types[-2:] == ["output", "done"]
    assert events[-1].job is not None
    assert {output.name: output.value for output in outputs} == events[-1].job.outputs


async def test_a_job_that_fails_keeps_the_outputs_that_were_complete(backend: Backend) -> None:
    asked = in_two_parts(100)
    asked.graph["9"]["class_type"] = "PreviewAny"  # which makes no image
    job = await until_draft(backend, (await backend.submit(asked)).job)
    ended = await finish(backend, job)
    assert ended.error is not None
    assert ended.error.code is ErrorCode.OUTPUT_MISSING
    assert ended.outputs == job.outputs
    await check_draft(backend, ended)
    events = [event.type async for event in backend.events("anna", job.id, after=ended.version)]
    assert events == ["output", "done"]


async def test_a_cancelled_job_keeps_the_outputs_that_were_complete(backend: Backend) -> None:
    job = await until_draft(backend, (await backend.submit(in_two_parts(FOREVER))).job)
    await backend.cancel("anna", job.id)
    ended = await finish(backend, job)
    assert (ended.status, ended.outputs) == (JobStatus.CANCELLED, job.outputs)
    await check_draft(backend, ended)


async def test_a_running_job_stops_when_it_is_cancelled(backend: Backend) -> None:
    job = await until_sampling(backend, (await backend.submit(request(sampling(FOREVER)))).job)
    asked = await backend.cancel("anna", job.id)
    assert asked.cancel_requested_at is not None
    again = await backend.cancel("anna", job.id)
    assert again.cancel_requested_at == asked.cancel_requested_at
    ended = await finish(backend, job)
    assert ended.status is JobStatus.CANCELLED
    assert ended.error is not None
    assert ended.error.code is ErrorCode.JOB_CANCELLED
    assert await backend.cancel("anna", job.id) == ended


async def test_cancelling_a_finished_job_changes_nothing(backend: Backend) -> None:
    job = await run(backend, request())
    assert await backend.cancel("anna", job.id) == job
    assert await backend.get("anna", job.id) == job


async def test_a_job_that_runs_too_long_is_timed_out(backend: Backend) -> None:
    job = await run(backend, request(sampling(FOREVER), timeout=0.5))
    assert job.status is JobStatus.TIMED_OUT
    assert job.error is not None
    assert job.error.code is ErrorCode.JOB_TIMED_OUT
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED


async def test_the_same_key_replays_the_same_job(backend: Backend) -> None:
    key = secrets.token_hex(8)
    first = await backend.submit(request(idempotency_key=key, fingerprint="a"))
    second = await backend.submit(request(idempotency_key=key, fingerprint="a"))
    assert (first.replayed, second.replayed) == (False, True)
    assert first.job.id == second.job.id
    assert await backend.replay("anna", "another", "a") is None
    await finish(backend, first.job)
    replayed = await backend.replay("anna", key, "a")
    assert replayed is not None
    assert (replayed.id, replayed.status) == (first.job.id, JobStatus.SUCCEEDED)


async def test_a_key_with_another_request_is_refused(backend: Backend) -> None:
    key = secrets.token_hex(8)
    await backend.submit(request(idempotency_key=key, fingerprint="a"))
    for call in (
        backend.submit(request(idempotency_key=key, fingerprint="b")),
        backend.replay("anna", key, "b"),
    ):
        with pytest.raises(BackendError) as caught:
            await call
        assert caught.value.code is ErrorCode.IDEMPOTENCY_MISMATCH


async def test_keys_of_different_owners_do_not_meet(backend: Backend) -> None:
    key = secrets.token_hex(8)
    first = await backend.submit(request(idempotency_key=key, fingerprint="a"))
    second = await backend.submit(request(idempotency_key=key, fingerprint="a", owner="berta"))
    assert first.job.id != second.job.id


async def test_submits_with_one_key_at_once_make_one_job(backend: Backend) -> None:
    key = secrets.token_hex(8)
    answers = await asyncio.gather(
        *(backend.submit(request(idempotency_key=key, fingerprint="a")) for _ in range(10))
    )
    assert len({answer.job.id for answer in answers}) == 1
    assert [answer.replayed for answer in answers].count(False) == 1


async def test_a_job_s_owner_is_known_and_that_of_no_job_is_not(backend: Backend) -> None:
    job = (await backend.submit(request(owner="berta"))).job
    assert await backend.owner_of(job.id) == "berta"
    with pytest.raises(BackendError) as caught:
        await backend.owner_of(f"job_{secrets.token_hex(13)}")
    assert caught.value.code is ErrorCode.UNKNOWN_JOB
    await finish(backend, job, "berta")
    assert await backend.owner_of(job.id) == "berta"


async def test_a_key_s_own_number_of_unfinished_jobs_holds(backend: Backend) -> None:
    budget = OwnerBudget(max_unfinished_jobs=1)
    job = (await backend.submit(request(sampling(FOREVER)), budget)).job
    usage = await backend.usage("anna", budget)
    assert (usage.unfinished_jobs, usage.max_unfinished_jobs) == (1, 1)
    with pytest.raises(BackendError) as caught:
        await backend.submit(request(), budget)
    assert caught.value.code is ErrorCode.QUOTA_EXCEEDED
    assert (caught.value.budget, caught.value.limit) == ("max_unfinished_jobs", 1)
    assert caught.value.retry_after
    other = await backend.submit(request(), OwnerBudget(max_unfinished_jobs=3))
    for unfinished in (job, other.job):
        await backend.cancel("anna", unfinished.id)
        await finish(backend, unfinished)
    assert (await backend.submit(request(), budget)).replayed is False


async def test_jobs_of_another_owner_are_unknown(backend: Backend) -> None:
    job = await run(backend, request())
    told: Any = (job.outputs or {})["image"]

    async def watch() -> None:
        async for _ in backend.events("berta", job.id, after=None):
            pytest.fail("an event of another owner's job")

    for call in (
        backend.get("berta", job.id),
        backend.wait("berta", job.id, after=None, timeout=1),
        backend.cancel("berta", job.id),
        backend.open_output("berta", job.id, told["name"]),
        watch(),
        backend.get("anna", f"job_{'0' * 26}"),
    ):
        with pytest.raises(BackendError) as caught:
            await call
        assert caught.value.code is ErrorCode.UNKNOWN_JOB


@pytest.mark.parametrize("name", ["none.png", "../output/x.png", "/etc/passwd", "", ".."])
async def test_a_file_that_the_job_did_not_make_is_unknown(backend: Backend, name: str) -> None:
    job = await run(backend, request())
    with pytest.raises(BackendError) as caught:
        await backend.open_output("anna", job.id, name)
    assert caught.value.code is ErrorCode.UNKNOWN_OUTPUT


async def test_jobs_are_listed_newest_first_page_by_page_and_filtered(backend: Backend) -> None:
    owner = secrets.token_hex(6)
    made: list[JobRecord] = []
    for index in range(5):
        asked = request(
            owner=owner,
            workflow="even" if index % 2 == 0 else "odd",
            labels={"n": str(index), "team": "red"},
            graph=loading("not-there.png") if index == 3 else None,
        )
        made.append(await run(backend, asked))
    ids = [job.id for job in reversed(made)]
    first = await backend.list_jobs(owner, limit=3)
    rest = await backend.list_jobs(owner, limit=3, cursor=first.cursor)
    assert [job.id for job in [*first.jobs, *rest.jobs]] == ids
    assert rest.cursor is None
    odd = await backend.list_jobs(owner, workflow="odd")
    assert [job.id for job in odd.jobs] == [made[3].id, made[1].id]
    failed = await backend.list_jobs(owner, status=JobStatus.FAILED)
    assert [job.id for job in failed.jobs] == [made[3].id]
    labelled = await backend.list_jobs(owner, labels={"n": "2", "team": "red"})
    assert [job.id for job in labelled.jobs] == [made[2].id]
    assert (await backend.list_jobs(owner, labels={"n": "2", "team": "blue"})).jobs == []
    assert (await backend.list_jobs("nobody")).jobs == []


async def test_jobs_of_all_owners_are_listed_together(backend: Backend) -> None:
    label = secrets.token_hex(4)
    owners = [f"{name}-{label}" for name in ("olga", "petra", "olga", "rita", "petra")]
    asked = [
        request(owner=owner, labels={"run": label}, job_id=f"job_{number:026d}",
                workflow="draw" if number else "other")
        for number, owner in enumerate(owners)
    ]  # fmt: skip
    for one in asked:
        await finish(backend, (await backend.submit(one)).job, one.owner)
    newest_first = [one.job_id for one in reversed(asked)]
    found: list[str] = []
    cursor = None
    for _ in range(3):
        page = await backend.list_jobs(None, labels={"run": label}, limit=2, cursor=cursor)
        found += [job.id for job in page.jobs]
        for job in page.jobs:
            assert page.owners[job.id] == owners[int(job.id[4:])]
            assert job.inputs == {"seed": 7}
        cursor = page.cursor
    assert (found, cursor) == (newest_first, None)
    drawn = await backend.list_jobs(None, labels={"run": label}, workflow="draw")
    assert [job.id for job in drawn.jobs] == newest_first[:-1]
    failed = await backend.list_jobs(None, labels={"run": label}, status=JobStatus.FAILED)
    assert failed.jobs == []
    assert newest_first[0] in [job.id for job in (await backend.list_jobs(None, limit=5)).jobs]
    assert (await backend.list_jobs(owners[0])).owners == {}


async def test_an_uploaded_file_reaches_the_graph(backend: Backend) -> None:
    data = png()
    digest = hashlib.sha256(data).hexdigest()
    await backend.put_file("anna", digest, once(data))
    assert await backend.has_file("anna", digest)
    assert not await backend.has_file("berta", digest)
    name = f"{digest[:32]}.png"
    job = await run(backend, request(loading(name), files={name: FileBySha256(sha256=digest)}))
    assert job.error is None
    told: Any = (job.outputs or {})["image"]
    file = await stored(backend, job.id, told["name"])
    with Image.open(file.path) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (1, 2, 3)


async def test_an_upload_with_another_hash_is_refused(backend: Backend) -> None:
    with pytest.raises(BackendError) as caught:
        await backend.put_file("anna", "0" * 64, once(b"something"))
    assert caught.value.code is ErrorCode.HASH_MISMATCH
    assert not await backend.has_file("anna", "0" * 64)


async def test_an_input_that_is_gone_fails_the_job_and_names_the_field(backend: Backend) -> None:
    files = {"in.png": FileBySha256(sha256="f" * 64)}
    job = await run(backend, request(loading("in.png"), files=files))
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.code is ErrorCode.INPUT_UNAVAILABLE
    assert [found.field for found in job.error.fields] == ["photo"]


async def test_a_purge_deletes_the_ended_jobs_of_an_owner_with_their_outputs(
    backend: Backend,
) -> None:
    mine, theirs = f"paula-{secrets.token_hex(4)}", f"quinn-{secrets.token_hex(4)}"
    first = request(owner=mine, idempotency_key="once", fingerprint="a")
    job = await finish(backend, (await backend.submit(first)).job, mine)
    told: Any = (job.outputs or {})["image"]
    kept = await finish(backend, (await backend.submit(request(owner=theirs))).job, theirs)
    running = (await backend.submit(request(sampling(FOREVER), owner=mine))).job
    upload = png()
    digest = hashlib.sha256(upload).hexdigest()
    await backend.put_file(mine, digest, once(upload))

    young = await backend.purge(PurgeRequest(older_than=3600, owner=mine))
    assert (young.jobs, young.files) == (0, 0)
    wanted = PurgeRequest(older_than=0, owner=mine)
    found = await backend.purge(replace(wanted, dry_run=True))
    assert (await backend.get(mine, job.id)).status is JobStatus.SUCCEEDED
    deleted = await backend.purge(wanted)
    assert deleted == found
    assert (deleted.jobs, deleted.files, deleted.complete) == (1, 0, True)
    assert deleted.job_bytes >= told["size"]

    for ask in (backend.get(mine, job.id), backend.open_output(mine, job.id, told["name"])):
        with pytest.raises(BackendError) as caught:
            await ask
        assert caught.value.code is ErrorCode.UNKNOWN_JOB
    assert [one.id for one in (await backend.list_jobs(mine)).jobs] == [running.id]
    assert (await backend.get(theirs, kept.id)).outputs == kept.outputs
    assert await backend.has_file(mine, digest)  # it was used just now
    again = await backend.submit(request(owner=mine, idempotency_key="once", fingerprint="b"))
    assert not again.replayed
    for left in (running, again.job):
        await backend.cancel(mine, left.id)
        await finish(backend, left, mine)


async def test_a_backend_that_runs_jobs_is_ready(backend: Backend) -> None:
    await run(backend, request())
    assert await backend.ready()
