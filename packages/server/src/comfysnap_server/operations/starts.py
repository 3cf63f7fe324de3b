"""How fast containers start and jobs run, by start kind and phase."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from statistics import quantiles
from typing import Any, Final

from comfysnap_server.backends.modal import KnownJob

PHASES: Final = {
    "queue": "waiting for a container, or for a free one",
    "start": "load and attach, or what follows a restore",
    "to first input": "from the submit until a worker took the job",
    "run": "staging and running the graph",
    "to first picture": "from the submit to the end of the job",
}
"""Phase to its meaning. A cold start's `load` is in `start`; that of a snapshot is not."""


KINDS: Final = ("restored", "cold", "no snapshot", "warm")
"""``cold`` makes the snapshot, where there is one; ``no snapshot`` is a measured baseline."""


@dataclass(frozen=True)
class PhaseSeconds:
    """One phase of the jobs of one start kind."""

    kind: str
    """One of ``KINDS``."""
    phase: str
    count: int
    p50: float
    p90: float
    p95: float

    def as_json(self) -> dict[str, Any]:
        """One element of ``starts`` in JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Sample:
    """One job: how its container started, and its phases in seconds."""

    kind: str
    seconds: dict[str, float]

    def named(self, kind: str) -> "Sample":
        """As one of another kind, unless its container was warm."""
        return self if self.kind == "warm" else replace(self, kind=kind)


def sample_of(job: KnownJob) -> Sample:
    """The phases of a job that are known."""
    timings = job.record.timings
    known = {
        "queue": timings.queue,
        "start": timings.start,
        "to first input": job.to_first_input,
        "run": timings.run,
        "to first picture": job.seconds if job.record.status == "succeeded" else None,
    }
    seconds = {phase: value for phase, value in known.items() if value is not None}
    return Sample(timings.start_kind or "", seconds)


def summarize(jobs: Iterable[KnownJob]) -> list[PhaseSeconds]:
    """Median, p90 and p95 of each phase, by start kind."""
    return summarize_samples(sample_of(job) for job in jobs)


def summarize_samples(samples: Iterable[Sample]) -> list[PhaseSeconds]:
    """As ``summarize``."""
    return list(_summarize(list(samples)))


def _summarize(samples: list[Sample]) -> Iterator[PhaseSeconds]:
    for kind in KINDS:
        for phase in PHASES:
            ours = (each.seconds for each in samples if each.kind == kind)
            values = sorted(seconds[phase] for seconds in ours if phase in seconds)
            if values:
                shares = (percentile(values, share) for share in (50, 90, 95))
                yield PhaseSeconds(kind, phase, len(values), *shares)


def percentile(values: list[float], share: int) -> float:
    """Of any number of values; between two of them it is interpolated."""
    if len(values) == 1:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[share - 1]


def median_job_seconds(jobs: Iterable[KnownJob]) -> float | None:
    """Seconds that the median job kept a container busy: its start, and its run."""
    busy = [
        timings.run + (timings.start or 0.0)
        for timings in (job.record.timings for job in jobs)
        if timings.run is not None
    ]
    return percentile(sorted(busy), 50) if busy else None
