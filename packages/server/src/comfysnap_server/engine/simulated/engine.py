"""The simulated engine: neither ComfyUI nor torch; for demos, front ends and tests."""

import io
import threading
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.engine.fields import node_problem
from comfysnap_server.engine.progress import SAMPLER_WEIGHT, ProgressMeter, weight_of
from comfysnap_server.engine.protocol import (
    EngineError,
    EngineInterrupted,
    EngineJob,
    EngineResult,
    PreviewFrame,
    ProducedFile,
    Report,
)
from comfysnap_server.engine.simulated.graph import links_of, order_of

if TYPE_CHECKING:
    from comfysnap_server.engine.simulated.saves import Made
    from comfysnap_server.engine.simulated.values import Call

SAMPLING_SECONDS: Final = 3.0
"""How long the samplers of a job take together, unless ``step_seconds`` says otherwise."""
MAX_STEPS: Final = 10_000
_DEFAULT_STEPS: Final = 20
_PREVIEW_SIDE: Final = 256
_PREVIEWS_A_NODE: Final = 8
_REMEMBERED: Final = 1000


class SimulatedEngine:
    """Computes plain image nodes for real, and draws a picture that says "simulated" where a
    model would be needed.

    Args:
        step_seconds: How long a sampler's step takes; None: ``SAMPLING_SECONDS`` a job.
    """

    name = "simulated"

    def __init__(self, step_seconds: float | None = None) -> None:
        if step_seconds is not None and not 0 <= step_seconds <= 60:
            raise ValueError("step_seconds has to be from 0 to 60")
        self._step_seconds = step_seconds
        self._interrupts = Interrupts()

    def load(self) -> None:
        """Import Pillow and its font."""
        from comfysnap_server.engine.simulated.nodes import NODES
        from comfysnap_server.engine.simulated.picture import Scene, draw

        draw(Scene(width=160, height=160, prompt=f"{len(NODES)} nodes"))

    def attach(self) -> None:
        """Nothing to do: there is no device."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Run one job; see ``Engine.run``."""
        try:
            return _Run(job, report, self._interrupts, self._step_seconds).run()
        finally:
            self._interrupts.forget(job.job_id)

    def interrupt(self, job_id: str) -> None:
        """Stop the job at its next step, or when it starts."""
        self._interrupts.request(job_id)


class Interrupts:
    """Which jobs are to stop; a request that comes before its job is kept."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: dict[str, None] = {}

    def request(self, job_id: str) -> None:
        """Remember that the job is to stop, and wake it."""
        with self._changed:
            self._jobs[job_id] = None
            while len(self._jobs) > _REMEMBERED:
                del self._jobs[next(iter(self._jobs))]
            self._changed.notify_all()

    def forget(self, job_id: str) -> None:
        """The job ended."""
        with self._changed:
            self._jobs.pop(job_id, None)

    def check(self, job_id: str, wait: float = 0.0) -> None:
        """Wait for up to ``wait`` seconds, less when the job is to stop.

        Raises:
            EngineInterrupted: The job is to stop.
        """
        with self._changed:
            if self._changed.wait_for(lambda: job_id in self._jobs, timeout=wait):
                raise EngineInterrupted(job_id)


class _Run:
    """One job."""

    def __init__(
        self, job: EngineJob, report: Report, interrupts: Interrupts, step_seconds: float | None
    ) -> None:
        from comfysnap_server.engine.simulated.saves import Saver

        self._job = job
        self._report = report
        self._interrupts = interrupts
        self._step_seconds = step_seconds
        self._saver = Saver(job.output_dir)
        self._slots: dict[str, tuple[object, ...]] = {}
        self._made: dict[str, Made] = {}

    def run(self) -> EngineResult:
        self._interrupts.check(self._job.job_id)
        targets = self._targets()
        order = order_of(self._job, targets, self._missing)
        meter = ProgressMeter(self._job.graph, order)
        samplers = sum(self._is_sampler(node) for node in order)
        seconds: dict[str, float] = {}
        for node in order:
            started = time.perf_counter()
            self._interrupts.check(self._job.job_id)
            self._report(meter.start(node))
            self._run_node(node, targets, meter, samplers)
            self._report(meter.finish(node))
            seconds[node] = time.perf_counter() - started
        return EngineResult(outputs=self._outputs(), node_seconds=seconds)

    def _targets(self) -> set[str]:
        from comfysnap_server.engine.simulated.saves import SAVES

        graph = self._job.graph
        wanted = {spec.node for spec in self._job.outputs.values() if spec.node in graph}
        return wanted | {node for node, entry in graph.items() if entry["class_type"] in SAVES}

    def _missing(self, node: str) -> Collection[str]:
        from comfysnap_server.engine.simulated.nodes import NODES

        entry = self._job.graph[node]
        known = NODES.get(entry["class_type"])
        return [name for name in known.required if name not in entry["inputs"]] if known else ()

    def _is_sampler(self, node: str) -> bool:
        return weight_of(self._job.graph[node]["class_type"]) == SAMPLER_WEIGHT

    def _run_node(self, node: str, targets: set[str], meter: ProgressMeter, samplers: int) -> None:
        from comfysnap_server.engine.simulated.nodes import NODES
        from comfysnap_server.engine.simulated.saves import save
        from comfysnap_server.engine.simulated.values import (
            Call,
            Modelled,
            NodeProblem,
            merge_facts,
        )

        entry = self._job.graph[node]
        call = Call(node, entry["class_type"], self._values(node))
        try:
            if node in targets:
                specs = self._job.outputs.values()
                kinds = [spec.kind for spec in specs if spec.node == node]
                self._made[node] = save(call, self._saver, kinds)
            if call.class_type in NODES:
                self._slots[node] = NODES[call.class_type].run(call, self._job.input_dir)
            else:
                facts = merge_facts(call.values)
                if self._is_sampler(node):
                    self._sample(call, facts.steps, meter, samplers)
                self._slots[node] = (Modelled(facts),)
        except NodeProblem as error:
            found = node_problem(
                self._job.graph, self._job.fields, node, str(error), input_name=error.input_name
            )
            raise EngineError(ErrorCode.NODE_FAILED, found.message, fields=(found,)) from error

    def _values(self, node: str) -> dict[str, object]:
        """The inputs with links resolved; a slot that is not known stands for the first."""
        values: dict[str, object] = dict(self._job.graph[node]["inputs"])
        for name, source, slot in links_of(self._job.graph, node):
            slots = self._slots[source]
            values[name] = slots[slot] if slot < len(slots) else slots[0]
        return values

    def _sample(self, call: "Call", steps: int | None, meter: ProgressMeter, samplers: int) -> None:
        first = call.integer("start_at_step", 0, 0, MAX_STEPS)
        last = call.integer("end_at_step", MAX_STEPS, 0, 2**63)
        total = min(max(min(steps or _DEFAULT_STEPS, last, MAX_STEPS) - first, 1), MAX_STEPS)
        pace = self._step_seconds
        if pace is None:
            pace = SAMPLING_SECONDS / samplers / total
        for step in range(1, total + 1):
            self._interrupts.check(self._job.job_id, pace)
            self._report(meter.step(call.node, step, total))
            if self._job.previews and step % max(total // _PREVIEWS_A_NODE, 1) == 0:
                self._report(self._preview(call, step / total))

    def _preview(self, call: "Call", done: float) -> PreviewFrame:
        from PIL import ImageFilter

        from comfysnap_server.engine.simulated.picture import Scene, draw
        from comfysnap_server.engine.simulated.values import merge_facts

        facts = merge_facts(call.values)
        width, height = facts.width or 512, facts.height or 512
        scale = min(_PREVIEW_SIDE / max(width, height), 1.0)
        scene = Scene(
            width=max(round(width * scale), 1),
            height=max(round(height * scale), 1),
            prompt=facts.prompt,
            seed=facts.seed or 0,
        )
        image = draw(scene).filter(ImageFilter.GaussianBlur(16 * (1 - done)))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=70)
        return PreviewFrame(content_type="image/jpeg", data=buffer.getvalue(), node=call.node)

    def _outputs(self) -> dict[str, list[ProducedFile] | list[JsonValue]]:
        outputs: dict[str, list[ProducedFile] | list[JsonValue]] = {}
        for name, spec in self._job.outputs.items():
            made = self._made.get(spec.node)
            if made is not None:
                outputs[name] = made.files or made.values
        return outputs
