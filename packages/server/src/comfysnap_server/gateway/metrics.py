"""What the gateway and its jobs do, for Prometheus."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import Scope

from comfysnap_schema.wire import JobRecord, routes
from comfysnap_server.backends.protocol import Backend
from comfysnap_server.gateway.problems import PROBLEM_KEY

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_RUN_S: Final = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600)
_START_S: Final = (0.1, 0.3, 1, 2, 3, 5, 10, 20, 40, 80, 160, 320)


class Metrics:
    """Counters of one process, from its start; what there is to do now is read when asked for."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "comfysnap_requests", "Requests by route.", ["method", "route", "status"],
            registry=registry,
        )  # fmt: skip
        self._problems = Counter(
            "comfysnap_problems", "Refused requests by error code.", ["code"], registry=registry
        )
        self._accepted = Counter(
            "comfysnap_jobs_accepted", "Accepted jobs.", ["workflow"], registry=registry
        )
        self._ended = Counter(
            "comfysnap_jobs_ended", "Ended jobs; the code is empty without an error.",
            ["workflow", "status", "code"], registry=registry,
        )  # fmt: skip
        self._queued = Histogram(
            "comfysnap_job_queue_seconds", "From acceptance until a worker took the job.",
            buckets=_RUN_S, registry=registry,
        )  # fmt: skip
        self._starts = Histogram(
            "comfysnap_worker_start_seconds", "What a job waited for its worker to start.",
            ["kind"], buckets=_START_S, registry=registry,
        )  # fmt: skip
        self._runs = Histogram(
            "comfysnap_job_run_seconds", "Running the graph.", ["workflow"], buckets=_RUN_S,
            registry=registry,
        )  # fmt: skip

    @property
    def registry(self) -> CollectorRegistry:
        """What a server of the metrics alone reads."""
        return self._registry

    def watch(self, backend: Backend, held: Callable[[], int]) -> None:
        """Report what ``backend`` has to do, and how many requests wait, as of each reading."""
        self._registry.register(_Now(backend, held))

    def request(self, scope: Scope, status: int) -> None:
        """A request was answered; ``status`` 0: its client hung up before."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        code = scope.get(PROBLEM_KEY)
        if code is not None:
            self._problems.labels(str(code)).inc()

    def accepted(self, workflow: str) -> None:
        """A job was accepted; a replay is none."""
        self._accepted.labels(workflow).inc()

    def ended(self, job: JobRecord) -> None:
        """A job ended."""
        code = "" if job.error is None else str(job.error.code)
        self._ended.labels(job.workflow, str(job.status), code).inc()
        timings = job.timings
        if timings.queue is not None:
            self._queued.observe(timings.queue)
        if timings.start_kind is not None:
            self._starts.labels(timings.start_kind).observe(timings.start or 0.0)
        if timings.run is not None:
            self._runs.labels(job.workflow).observe(timings.run)

    def page(self) -> bytes:
        """Everything in the text format of Prometheus."""
        return generate_latest(self._registry)


def metrics_router(metrics: Metrics) -> APIRouter:
    """``/metrics``, for callers with access."""
    router = APIRouter(include_in_schema=False)

    @router.get(routes.METRICS)
    async def page() -> Response:
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return router


class _Now(Collector):
    def __init__(self, backend: Backend, held: Callable[[], int]) -> None:
        self._backend = backend
        self._held = held

    def collect(self) -> Iterable[Metric]:
        """The gauges that are known."""
        load = self._backend.load()
        age = 0.0
        if load.oldest_queued is not None:
            age = max((datetime.now(UTC) - load.oldest_queued).total_seconds(), 0.0)
        known = (
            ("held_requests", "Requests that are held open.", self._held()),
            ("jobs_queued", "Jobs that wait for a worker.", load.queued),
            (
                "jobs_queued_oldest_seconds",
                "How long the oldest of them has waited.",
                None if load.queued is None else age,
            ),
            ("jobs_running", "Jobs that run.", load.running),
            ("webhooks_pending", "Webhooks to be sent, or sent again.", load.webhooks),
            ("disk_free_bytes", "Free on the disk with jobs and files.", load.free_bytes),
        )
        for name, text, value in known:
            if value is not None:
                yield GaugeMetricFamily(f"comfysnap_{name}", text, value)
