"""The simulated engine: runs graphs without ComfyUI, for demos, front ends and tests."""

import io
import threading
import time
from collections.abc import Collection, Iterator
from typing import Final

from PIL import ImageFilter
from pydantic import JsonValue

from comfysnap_schema.comfy import Graph, is_link
from comfysnap_schema.wire import ErrorCode
from comfysnap_server.engine.fields import node_problem
from comfysnap_server.engine.progress import SAMPLER_WEIGHT, ProgressMeter, weight_of
from comfysnap_server.engine.protocol import (
    EngineError,
    EngineInterrupted,
    EngineJob,
    EngineResult,
    NodeOutput,
    PreviewFrame,
    ProducedFile,
    Report,
)
from comfysnap_server.engine.simulated.nodes import NODES
from comfysnap_server.engine.simulated.saves import SAVES, OutputFolder, Saved, save
from comfysnap_server.engine.simulated.values import (
    Call,
    NodeError,
    Placeholder,
    draw,
    merge_properties,
)

SAMPLING_SECONDS: Final = 3.0
"""Seconds that all samplers of a job take together by default."""
MAX_STEPS: Final = 10_000
"""Maximum number of steps of one sampler."""
_DEFAULT_STEPS: Final = 20
_PREVIEW_SIDE: Final = 256
_PREVIEWS_A_NODE: Final = 8
_REMEMBERED: Final = 1000


class SimulatedEngine:
    """Computes image nodes with Pillow; where a model is needed, draws a card that says so.

    Args:
        step_seconds: Seconds that a sampler's step takes, from 0 to 60. None divides
            ``SAMPLING_SECONDS`` among the steps of the job.
    """

    name = "simulated"

    def __init__(self, step_seconds: float | None = None) -> None:
        if step_seconds is not None and not 0 <= step_seconds <= 60:
            raise ValueError("step_seconds must be from 0 to 60")
        self._step_seconds = step_seconds
        self._interrupts = Interrupts()

    def load(self) -> None:
        """Load Pillow's plugins and font."""
        draw((160, 160))

    def attach(self) -> None:
        """Do nothing: there is no device."""

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
    """Interrupt requests by job; a request is kept until its job starts."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: dict[str, None] = {}

    def request(self, job_id: str) -> None:
        """Request that the job stops, and wake it."""
        with self._changed:
            self._jobs[job_id] = None
            while len(self._jobs) > _REMEMBERED:
                del self._jobs[next(iter(self._jobs))]
            self._changed.notify_all()

    def forget(self, job_id: str) -> None:
        """Drop the request of a job that ended."""
        with self._changed:
            self._jobs.pop(job_id, None)

    def check(self, job_id: str, wait: float = 0.0) -> None:
        """Wait for ``wait`` seconds, or until an interrupt of the job.

        Raises:
            EngineInterrupted: The job was interrupted.
        """
        with self._changed:
            if self._changed.wait_for(lambda: job_id in self._jobs, timeout=wait):
                raise EngineInterrupted(job_id)


class _Run:
    """One job."""

    def __init__(
        self, job: EngineJob, report: Report, interrupts: Interrupts, step_seconds: float | None
    ) -> None:
        self._job = job
        self._report = report
        self._interrupts = interrupts
        self._step_seconds = step_seconds
        self._folder = OutputFolder(job.output_dir)
        self._slots: dict[str, tuple[object, ...]] = {}
        self._saved: dict[str, Saved] = {}

    def run(self) -> EngineResult:
        self._interrupts.check(self._job.job_id)
        targets = self._targets()
        order = execution_order(self._job, targets)
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
            if node is not order[-1]:
                self._report_outputs(node)
        return EngineResult(outputs=self._outputs(), node_seconds=seconds)

    def _targets(self) -> set[str]:
        graph = self._job.graph
        wanted = {spec.node for spec in self._job.outputs.values() if spec.node in graph}
        return wanted | {node for node, entry in graph.items() if entry["class_type"] in SAVES}

    def _is_sampler(self, node: str) -> bool:
        return weight_of(self._job.graph[node]["class_type"]) == SAMPLER_WEIGHT

    def _run_node(self, node: str, targets: set[str], meter: ProgressMeter, samplers: int) -> None:
        entry = self._job.graph[node]
        call = Call(node, entry["class_type"], self._values(node))
        try:
            if node in targets:
                specs = self._job.outputs.values()
                kinds = [spec.kind for spec in specs if spec.node == node]
                self._saved[node] = save(call, self._folder, kinds)
            if call.class_type in NODES:
                self._slots[node] = NODES[call.class_type].run(call, self._job.input_dir)
            else:
                properties = merge_properties(call.values)
                if self._is_sampler(node):
                    self._sample(call, properties.steps, meter, samplers)
                self._slots[node] = (Placeholder(properties),)
        except NodeError as error:
            found = node_problem(
                self._job.graph, self._job.fields, node, str(error), input_name=error.input_name
            )
            raise EngineError(ErrorCode.NODE_FAILED, found.message, fields=(found,)) from error

    def _values(self, node: str) -> dict[str, object]:
        """The inputs with links replaced by values; an unknown output slot gives the first."""
        values: dict[str, object] = dict(self._job.graph[node]["inputs"])
        for name, source, slot in links_of(self._job.graph, node):
            slots = self._slots[source]
            values[name] = slots[slot] if slot < len(slots) else slots[0]
        return values

    def _sample(self, call: Call, steps: int | None, meter: ProgressMeter, samplers: int) -> None:
        first = call.integer("start_at_step", 0, 0, MAX_STEPS)
        last = call.integer("end_at_step", MAX_STEPS, 0, 2**63)
        total = min(max(min(steps or _DEFAULT_STEPS, last, MAX_STEPS) - first, 1), MAX_STEPS)
        pace = self._step_seconds
        if pace is None:
            pace = SAMPLING_SECONDS / samplers / total
        for step in range(1, total + 1):
            self._interrupts.check(self._job.job_id, pace)
            self._report(meter.step(call.node, step, total))
            if self._job.options.previews and step % max(total // _PREVIEWS_A_NODE, 1) == 0:
                self._report(self._preview(call, step / total))

    def _preview(self, call: Call, done: float) -> PreviewFrame:
        properties = merge_properties(call.values)
        width, height = properties.width or 512, properties.height or 512
        scale = min(_PREVIEW_SIDE / max(width, height), 1.0)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        card = draw(size, prompt=properties.prompt, seed=properties.seed or 0)
        image = card.filter(ImageFilter.GaussianBlur(16 * (1 - done)))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=70)
        return PreviewFrame(content_type="image/jpeg", data=buffer.getvalue(), node=call.node)

    def _report_outputs(self, node: str) -> None:
        for name, spec in self._job.outputs.items():
            if spec.node == node and (saved := self._saved.get(node)) is not None:
                self._report(NodeOutput(name=name, items=saved.files or saved.values))

    def _outputs(self) -> dict[str, list[ProducedFile] | list[JsonValue]]:
        outputs: dict[str, list[ProducedFile] | list[JsonValue]] = {}
        for name, spec in self._job.outputs.items():
            saved = self._saved.get(spec.node)
            if saved is not None:
                outputs[name] = saved.files or saved.values
        return outputs


def links_of(graph: Graph, node: str) -> Iterator[tuple[str, str, int]]:
    """Input name, source node and output slot of each linked input."""
    for name, value in graph[node]["inputs"].items():
        if isinstance(value, list) and is_link(value):
            yield name, str(value[0]), int(float(str(value[1])))


def execution_order(job: EngineJob, targets: Collection[str]) -> list[str]:
    """The nodes that the targets depend on, sources first.

    Args:
        job: The job.
        targets: The output nodes.

    Raises:
        EngineError: ``graph_invalid``: no output node, a link to a node that does not exist, a
            missing input, or a cycle.
    """
    if not targets:
        raise EngineError(ErrorCode.GRAPH_INVALID, "the graph does not contain an output node")
    order: list[str] = []
    entered: set[str] = set()
    done: set[str] = set()
    stack = [(node, False) for node in sorted(targets, reverse=True)]
    while stack:
        node, leaving = stack.pop()
        if leaving:
            done.add(node)
            order.append(node)
        elif node not in done:
            if node in entered:
                raise _invalid(job, node, "the links form a cycle")
            entered.add(node)
            stack.append((node, True))
            stack += ((source, False) for source in _sources(job, node, entered - done))
    return order


def _sources(job: EngineJob, node: str, open_nodes: set[str]) -> list[str]:
    sources: list[str] = []
    for name, source, slot in links_of(job.graph, node):
        if source not in job.graph:
            raise _invalid(
                job, node, f"{name} is linked to node {source}, which does not exist", name
            )
        if slot < 0:
            raise _invalid(job, node, f"{name} is linked to output {slot}", name)
        if source in open_nodes:
            raise _invalid(job, node, "the links form a cycle", name)
        sources.append(source)
    entry = job.graph[node]
    known = NODES.get(entry["class_type"])
    for name in known.required if known else ():
        if name not in entry["inputs"]:
            raise _invalid(job, node, f"the required input {name} is missing", name)
    return sources


def _invalid(job: EngineJob, node: str, message: str, input_name: str | None = None) -> EngineError:
    found = node_problem(job.graph, job.fields, node, message, input_name=input_name)
    return EngineError(ErrorCode.GRAPH_INVALID, found.message, fields=(found,))
