"""Engines that misbehave, for worker processes: ``tests.server.backends.local.engines:Name``."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import cast

from pydantic import JsonValue

from comfysnap_schema.wire.jobs import Progress
from comfysnap_server.engine.protocol import (
    EngineJob,
    EngineResult,
    EngineStartError,
    NodeOutput,
    PreviewFrame,
    Report,
)
from comfysnap_server.engine.simulated.engine import SimulatedEngine


class LoggingEngine(SimulatedEngine):
    """Appends the id of each job that it runs to a file, before it runs it."""

    def __init__(self, log: str, step_seconds: float = 0.0) -> None:
        super().__init__(step_seconds)
        self._log = log

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Log, then run."""
        with Path(self._log).open("a") as file:
            file.write(f"{job.job_id}\n")
        return super().run(job, report)


class CrashingEngine(LoggingEngine):
    """Kills its process the first ``times`` times that it is to run a job."""

    def __init__(self, log: str, times: int = 1) -> None:
        super().__init__(log)
        self._times = times

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Log, then crash or run."""
        log = Path(self._log)
        if not log.exists() or len(log.read_text().splitlines()) < self._times:
            with log.open("a") as file:
                file.write(f"{job.job_id}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(job, report)


class StubbornEngine(SimulatedEngine):
    """Does not heed interrupts."""

    def interrupt(self, job_id: str) -> None:
        """Ignore it."""


class HeldEngine(StubbornEngine):
    """Holds each job at its first step until a file exists."""

    def __init__(self, gate: str) -> None:
        super().__init__(0.0)
        self._gate = Path(gate)

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Run, and wait for the file."""

        def hold(news: Progress | PreviewFrame | NodeOutput) -> None:
            report(news)
            while isinstance(news, Progress) and news.step and not self._gate.exists():
                time.sleep(0.01)

        return super().run(job, hold)


class UnspeakableEngine(SimulatedEngine):
    """Hands out what is no JSON."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Run, then tell bytes that are no text."""
        super().run(job, report)
        return EngineResult(outputs={"image": [cast("JsonValue", b"\xff")]})


class ThreadedEngine(SimulatedEngine):
    """Leaves a thread behind when it is loaded."""

    def load(self) -> None:
        """Start a thread that never ends."""
        super().load()
        threading.Thread(target=threading.Event().wait, name="pack-thread", daemon=True).start()


class UnloadableEngine(SimulatedEngine):
    """Cannot be loaded while a file exists."""

    def __init__(self, blocker: str) -> None:
        super().__init__(0.0)
        self._blocker = Path(blocker)

    def load(self) -> None:
        """Fail, or not."""
        if self._blocker.exists():
            raise RuntimeError("the disk of the models is not mounted")


class DevicelessEngine(SimulatedEngine):
    """Does not find the device that it needs."""

    def attach(self) -> None:
        """Say so."""
        raise EngineStartError("no CUDA device: found no driver")


class SlowEngine(SimulatedEngine):
    """Takes its time to load."""

    def load(self) -> None:
        """Sleep."""
        time.sleep(60)


class BrokenEngine(SimulatedEngine):
    """Fails in a way it did not foresee, and is then broken; leaves a trace of its process."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Fail for graphs of one node."""
        if len(job.graph) == 1:
            raise RuntimeError("the device is gone")
        return super().run(job, report)


class BreakingEngine(LoggingEngine):
    """Breaks at the first job of all; the process that ran it then fails at every other."""

    def __init__(self, log: str) -> None:
        super().__init__(log)
        self._broken = False

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Run, unless it is broken."""
        self._broken = self._broken or not Path(self._log).exists()
        result = super().run(job, report)
        if self._broken:
            raise RuntimeError("the device is gone")
        return result


class LitteringEngine(SimulatedEngine):
    """Writes into its input folder, as nodes that keep a cache there do."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Fail when somebody else did."""
        if any(job.input_dir.iterdir()):
            raise RuntimeError("files of another job")
        (job.input_dir / "cache").mkdir()
        (job.input_dir / "cache" / "thumbnail").touch()
        return super().run(job, report)


class QuittingEngine(SimulatedEngine):
    """Tries to end its thread."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Quit."""
        raise SystemExit(3)


class PrintingEngine(SimulatedEngine):
    """Writes to standard output, as node packs do, and starts a process that outlives a job."""

    def __init__(self, pid_file: str) -> None:
        super().__init__(60.0)
        self._pid_file = Path(pid_file)

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Start ``sleep`` and never wait for it."""
        print("hello from a node")  # noqa: T201 -- what is tested
        pid = os.posix_spawn("/bin/sleep", ["sleep", "600"], dict(os.environ))
        self._pid_file.write_text(str(pid))
        return super().run(job, report)


class GatedEngine(ThreadedEngine):
    """Loads once a file exists, and cannot be forked: each worker loads anew."""

    def __init__(self, gate: str) -> None:
        super().__init__(0.0)
        self._gate = Path(gate)

    def load(self) -> None:
        """Wait for the file."""
        while not self._gate.exists():
            time.sleep(0.01)
        super().load()


class MumblingEngine(SimulatedEngine):
    """Tells progress that cannot be written."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Name a node in half a letter."""
        report(Progress(fraction=0.5, node="\ud800"))
        return super().run(job, report)


class StrayEngine(SimulatedEngine):
    """Starts a process in a session of its own, whose parent ends at once, and writes its pid."""

    def __init__(self, pid_file: str) -> None:
        super().__init__(60.0)
        self._pid_file = Path(pid_file)

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Leave the process behind, then run."""
        new = f"{self._pid_file}.new"
        script = f"setsid sleep 600 & echo $! > {new}; mv {new} {self._pid_file}"
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], dict(os.environ))
        os.waitpid(pid, 0)
        return super().run(job, report)


class ShortStrayEngine(SimulatedEngine):
    """Leaves an orphan behind that ends by itself."""

    def __init__(self, pid_file: str) -> None:
        super().__init__(0.0)
        self._pid_file = pid_file

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Start it through a shell that ends first, then run."""
        script = f"sleep 0.1 & echo $! > {self._pid_file}"
        os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", script], dict(os.environ)), 0)
        return super().run(job, report)


class StrayOfEachJobEngine(StrayEngine):
    """Writes the pid of each job's process into a file with the job's name."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Name the file, then run."""
        self._pid_file = self._pid_file.with_name(job.job_id)
        return super().run(job, report)


class SecondDeviceBrokenEngine(SimulatedEngine):
    """Finds GPU 0 alone."""

    def attach(self) -> None:
        """Look at what this process may see."""
        if os.environ["CUDA_VISIBLE_DEVICES"] != "0":
            raise EngineStartError("no CUDA device: the GPU fell off the bus")


class ThreadedStrayEngine(StrayEngine, ThreadedEngine):
    """The same in a worker that cannot be forked."""


class SeeingEngine(LoggingEngine):
    """Writes what a node pack could see: the graph, and the environment."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Write, then run."""
        seen = {"job": job.job_id, "graph": job.graph, "environment": dict(os.environ)}
        with Path(self._log).open("a") as file:
            file.write(json.dumps(seen) + "\n")
        return super(LoggingEngine, self).run(job, report)
