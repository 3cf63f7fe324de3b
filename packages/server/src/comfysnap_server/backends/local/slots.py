"""The workers of a server: for each a supervisor of its process, and a loop that gives it jobs."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import cycle, islice

from comfysnap_schema.wire import JobRecord
from comfysnap_server.backends.local.fork_client import ForkServers
from comfysnap_server.backends.local.runner import Runner
from comfysnap_server.backends.local.supervisor import WorkerSupervisor
from comfysnap_server.backends.local.worker_process import WorkerProcess


def spread(gpus: Sequence[int], workers: int | None) -> list[int | None]:
    """The GPU of each worker, by turns; None: it sees all devices.

    Args:
        gpus: Indices; may be empty.
        workers: How many there are; None: one for each GPU, or one.

    Raises:
        ValueError: There are fewer workers than GPUs, or none.
    """
    count = max(len(gpus), 1) if workers is None else workers
    if count < max(len(gpus), 1):
        raise ValueError(f"workers must be at least {max(len(gpus), 1)}, got {count}")
    return list(islice(cycle(gpus or [None]), count))


class Slots:
    """What one of them suffers leaves the others alone.

    Args:
        gpus: The GPU of each worker; see ``spread``.
        fork_servers: Where the processes come from.
        make_runner: Makes the loop of a worker, given ``slot`` and ``supervisor``.
    """

    def __init__(
        self,
        gpus: Sequence[int | None],
        fork_servers: ForkServers,
        make_runner: Callable[..., Runner],
    ) -> None:
        self._supervisors = [WorkerSupervisor(fork_servers, gpu) for gpu in gpus]
        self._runners = [
            make_runner(slot=slot, supervisor=supervisor)
            for slot, supervisor in enumerate(self._supervisors)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to keep the workers, and to give them jobs."""
        for supervisor in self._supervisors:
            supervisor.start()
        self._tasks = [
            asyncio.create_task(runner.run_forever(), name=f"job-runner-{slot}")
            for slot, runner in enumerate(self._runners)
        ]

    async def stop_jobs(self, *, patience: float) -> None:
        """Give out no more jobs, and interrupt those that run.

        Args:
            patience: Seconds for them to be queued again.
        """
        for runner in self._runners:
            runner.stop()
        running = [
            task
            for task, runner in zip(self._tasks, self._runners, strict=True)
            if runner.current is not None
        ]
        if running:
            await asyncio.wait(running, timeout=patience)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        """End the workers."""
        await asyncio.gather(*(supervisor.stop() for supervisor in self._supervisors))

    async def worker(self, slot: int) -> WorkerProcess:
        """The worker of a slot, once it is ready."""
        return await self._supervisors[slot].worker()

    def reserve(self, record: JobRecord) -> tuple[Runner | None, JobRecord]:
        """The loop of an idle worker, now reserved for a job, and the job's record as that worker
        takes it; the first one, which has the models of the job before. None and the record as it
        was when the job would wait; see ``Runner.reserve``."""
        for runner in self._runners:
            worker = runner.reserve()
            if worker is not None:
                return runner, runner.started(record, worker)
        return None, record

    @property
    def busy(self) -> int:
        """How many have a job, or are reserved for one."""
        return sum(runner.busy for runner in self._runners)

    @property
    def started(self) -> bool:
        """Whether a worker was ever ready."""
        return any(supervisor.started for supervisor in self._supervisors)

    @property
    def why_unhealthy(self) -> str | None:
        """Why no job would run, or its end could not be stored; None when one would."""
        stuck = next((runner.stuck for runner in self._runners if runner.stuck), None)
        return stuck or _if_all([one.why_unhealthy for one in self._supervisors])

    @property
    def failure(self) -> str | None:
        """Why the last starts failed, of all of them; None while one can be started."""
        return _if_all([one.failure for one in self._supervisors])

    @property
    def start_failure(self) -> str | None:
        """Why the first starts failed, of all of them; None while one may be started yet."""
        return _if_all([one.start_failure for one in self._supervisors])


def _if_all(reasons: Sequence[str | None]) -> str | None:
    return reasons[0] if all(reasons) else None
