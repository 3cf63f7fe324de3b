"""From the records of a job to the job, and to what has to be done about it. No I/O."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, Final

from pydantic import JsonValue

from comfysnap_schema.wire import JobRecord, JobStatus, Progress, Timings
from comfysnap_server.backends.modal.platform import CallEnd, CallState, Pools
from comfysnap_server.backends.modal.records import (
    CancelRequest,
    Claim,
    End,
    FeedEntry,
    Spawned,
)
from comfysnap_server.jobs import ENDINGS, Ending, JobRequest, Outcome, ended

_ATTEMPT_STEP: Final = 1_000_000
_FINAL_VERSION: Final = 1_000_000_000
_LONGEST_REASON: Final = 500
_SOONEST_S: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When the gateway acts for a job. Seconds."""

    respawn_after: float = 10.0
    """A request without a call was left by a gateway that died; it is spawned again."""
    cancel_grace: float = 30.0
    """How long an engine may take to stop before its container is killed."""
    refresh: float = 30.0
    """Between reads of the records of a job that a request waits for and nothing is heard of."""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """All records of one job at one moment."""

    request: JobRequest
    call: Spawned | None = None
    claims: tuple[Claim, ...] = ()
    """Of attempts 1, 2, ..."""
    cancel: CancelRequest | None = None
    final: End | None = None
    entry: FeedEntry | None = None
    """The latest one with progress."""
    told: FeedEntry | None = None
    """The latest one with outputs."""

    @property
    def running_call(self) -> str | None:
        """The call whose end is the job's end."""
        if self.claims:
            return self.claims[-1].call_id
        return self.call.call_id if self.call else None

    def with_entry(self, entry: FeedEntry) -> "JobState":
        """With a newer entry of the feed; one of an earlier attempt changes nothing."""
        state = self
        if entry.outputs is not None and _is_newer(entry, self.told):
            state = replace(state, told=entry)
        if _is_newer(entry, self.entry):
            state = replace(state, entry=entry)
        return state

    def with_feed_of(self, other: "JobState") -> "JobState":
        """With what another state knows from the feed."""
        state = self
        for entry in (other.told, other.entry):
            if entry is not None:
                state = state.with_entry(entry)
        return state


def _is_newer(entry: FeedEntry, known: FeedEntry | None) -> bool:
    return known is None or (entry.attempt, entry.number) > (known.attempt, known.number)


def job_of(snapshot: JobState) -> JobRecord:
    """The job as every gateway container derives it from the same records."""
    request, final = snapshot.request, snapshot.final
    # a call that comes again, or too late, claims an attempt before it sees the end
    claims = snapshot.claims[: final.attempt] if final else snapshot.claims
    claim = claims[-1] if claims else None
    state: dict[str, Any] = {
        "status": JobStatus.RUNNING if claim else JobStatus.QUEUED,
        "progress": latest_progress(snapshot),
        "outputs": early_outputs(snapshot),
        "timings": started_timings(request, claim),
    }
    if final:
        state = dict(final)
        state["finished_at"] = state.pop("at")
    state["attempt"] = len(claims) - (claim.preemptions if claim else 0)
    return request.record(
        version=_version(snapshot),
        cancel_requested_at=snapshot.cancel.at if snapshot.cancel else None,
        started_at=claim.at if claim else None,
        **state,
    )


def latest_progress(snapshot: JobState) -> Progress:
    """The newest progress of the running attempt."""
    entry = snapshot.entry
    if entry is None or entry.progress is None or entry.attempt != len(snapshot.claims):
        return Progress()
    return entry.progress


def early_outputs(snapshot: JobState) -> dict[str, JsonValue] | None:
    """The outputs of the running attempt that are complete; None if there are none."""
    told = snapshot.told
    return told.outputs if told and told.attempt == len(snapshot.claims) else None


def started_timings(request: JobRequest, claim: Claim | None) -> Timings:
    """What is known once a worker took the job."""
    if claim is None:
        return Timings()
    until = max(0.0, (claim.at - request.created_at).total_seconds())
    return Timings(
        queue=round(max(0.0, until - claim.start_seconds), 6),
        start=claim.start_seconds,
        start_kind=claim.start_kind,
        load=claim.load_seconds,
        attach=claim.attach_seconds,
        device=claim.device,
    )


def _version(snapshot: JobState) -> int:
    """The same for the same records, and higher whenever one is added."""
    if snapshot.final:
        return _FINAL_VERSION
    attempt = len(snapshot.claims)
    entry = snapshot.entry
    number = entry.number if entry and attempt and entry.attempt == attempt else 0
    return 1 + attempt * _ATTEMPT_STEP + 2 * number + (1 if snapshot.cancel else 0)


class Step(Enum):
    """What a gateway does for a job."""

    NOTHING = "nothing"
    SPAWN = "spawn"
    MOVE = "move"
    """Spawn in another pool: the one that the job waits in is gone."""
    STOP = "stop"
    """Cancel the call."""
    KILL = "kill"
    """Cancel the call with its container."""


@dataclass(frozen=True)
class Decision:
    """One step, and the final record to write with it."""

    step: Step = Step.NOTHING
    final: End | None = None


def decide(
    snapshot: JobState, policy: Policy, now: datetime, pools: Pools | None = None
) -> Decision:
    """What the records alone ask for."""
    if snapshot.final:
        return Decision()
    request = snapshot.request
    age = (now - request.created_at).total_seconds()
    if snapshot.cancel:
        if not snapshot.claims:
            return Decision(Step.STOP, end_of(snapshot, ended(Ending.CANCELLED), now))
        waited = (now - snapshot.cancel.at).total_seconds()
        return Decision(Step.KILL if waited > policy.cancel_grace else Step.NOTHING)
    if not snapshot.claims:
        if request.queue_timeout is not None and age > request.queue_timeout:
            return Decision(Step.STOP, end_of(snapshot, ended(Ending.EXPIRED), now))
        if snapshot.call is None and age > policy.respawn_after:
            return Decision(Step.SPAWN)
        if snapshot.call and pools and pools.lacks(snapshot.call.pool):
            return Decision(Step.MOVE)
    return Decision()


def seconds_until_due(snapshot: JobState, policy: Policy, now: datetime) -> float:
    """When the records have to be looked at again, even if nothing is heard of the job."""
    request, moments = snapshot.request, [policy.refresh]
    age = (now - request.created_at).total_seconds()
    if snapshot.cancel:
        waited = (now - snapshot.cancel.at).total_seconds()
        moments.append(policy.cancel_grace - waited)
    elif not snapshot.claims:
        if snapshot.call is None:
            moments.append(policy.respawn_after - age)
        if request.queue_timeout is not None:
            moments.append(request.queue_timeout - age)
    return max(min(_SOONEST_S, policy.refresh), min(moments) + 0.01)


def decide_by_call(snapshot: JobState, call: CallEnd, now: datetime) -> End | None:
    """The final record of a job whose call ended without writing one; None: it has one."""
    if snapshot.final:
        return None
    if call.state is CallState.STOPPED and snapshot.cancel:
        return end_of(snapshot, ended(Ending.CANCELLED), now)
    ending = _BY_CALL[call.state]
    if snapshot.claims and ending is Ending.NOT_STARTED:
        ending = Ending.ENGINE_FAILED
    detail = ENDINGS[ending].detail
    if call.reason:
        detail += f"; reason: {call.reason[:_LONGEST_REASON]}"
    return end_of(snapshot, ended(ending, detail), now)


_BY_CALL: Final = {
    CallState.RETURNED: Ending.NO_RESULT,
    CallState.RAISED: Ending.NOT_STARTED,
    CallState.STOPPED: Ending.CALL_STOPPED,
    CallState.TIMED_OUT: Ending.TIMED_OUT,
    CallState.GONE: Ending.RESULT_EXPIRED,
    CallState.LOST: Ending.WORKER_LOST,
}


def end_of(
    snapshot: JobState, outcome: Outcome, now: datetime, progress: Progress | None = None
) -> End:
    """The final record of a job.

    Args:
        progress: The last one reported. None takes that of the feed.
    """
    claim = snapshot.claims[-1] if snapshot.claims else None
    end = outcome.end(
        started_timings(snapshot.request, claim),
        latest_progress(snapshot) if progress is None else progress,
        max(0.0, (now - claim.at).total_seconds()) if claim else None,
        outputs=early_outputs(snapshot),
    )
    return End(at=now, attempt=len(snapshot.claims), **dict(end))
