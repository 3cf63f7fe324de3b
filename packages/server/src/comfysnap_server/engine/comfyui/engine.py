"""The engine that runs graphs on ComfyUI in this process."""

import asyncio
import functools
import gc
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from pydantic import JsonValue

from comfysnap_schema.comfy import Graph
from comfysnap_schema.wire import ErrorCode
from comfysnap_server.engine.comfyui.attach import Device, ProcessState, reseed
from comfysnap_server.engine.comfyui.binding import CachePolicy
from comfysnap_server.engine.comfyui.cache import (
    ResultCaches,
    job_local_nodes,
)
from comfysnap_server.engine.comfyui.errors import (
    NO_DRAWING,
    BrokenDeviceError,
    describe_node,
    is_broken_device,
    misses_drawing,
    node_error,
    reads_drawing,
    validation_error,
)
from comfysnap_server.engine.comfyui.events import JobEvents, planned_nodes, preview_jpeg
from comfysnap_server.engine.comfyui.folders import TEMP, set_job_folders
from comfysnap_server.engine.comfyui.hooks import follow, install_hook, keep_texts_whole
from comfysnap_server.engine.comfyui.interrupt import Interrupts
from comfysnap_server.engine.comfyui.library_pages import (
    LARGEST_PIECE,
    LibraryPagesError,
    libraries,
    small_job,
    touched_pages,
    use_libraries,
)
from comfysnap_server.engine.comfyui.load import (
    Comfy,
    load_comfy,
    load_deferred,
    restore_functions,
)
from comfysnap_server.engine.comfyui.mask import MaskRecord, masked
from comfysnap_server.engine.comfyui.memory import memory, memory_headroom, release
from comfysnap_server.engine.comfyui.options import ComfyOptions
from comfysnap_server.engine.comfyui.outputs import Folders, by_graph_node, collect
from comfysnap_server.engine.comfyui.readahead import (
    ModelFile,
    Piece,
    ReadAhead,
    is_local,
    library_pieces,
    loader_nodes,
    model_files,
    model_pieces,
    read_ahead_budget,
)
from comfysnap_server.engine.comfyui.report import LoadReport
from comfysnap_server.engine.comfyui.saved import SavedFiles
from comfysnap_server.engine.comfyui.secrets import ApiKey
from comfysnap_server.engine.comfyui.stages import StageClock
from comfysnap_server.engine.protocol import (
    SCRATCH,
    EngineError,
    EngineInterrupted,
    EngineJob,
    EngineResult,
    NodeOutput,
    ProducedFile,
    Report,
    StageSeconds,
)

logger = logging.getLogger(__name__)

CLIENT_ID: Final = "comfysnap"
"""The executor reports errors only to a client with an id."""
COLLECT_INTERVAL: Final = 10.0
"""Seconds between garbage collections, as in ``main.py``."""
MEMORY_INTERVAL: Final = 1.0
"""Seconds between checks of the free memory."""
CPU_MODEL_SIZE: Final = 2.0
"""Size of a loaded model over that of its file, on a CPU: half precision becomes single."""


class ComfyUIEngine:
    """The ComfyUI of this process, which can hold only one. Options: see ``ComfyOptions``."""

    name = "comfyui"

    def __init__(self, **options: JsonValue) -> None:
        self.options = ComfyOptions.read(options)
        self._comfy: Comfy | None = None
        self._executor: Any = None
        self._caches = ResultCaches(None)
        self._interrupts = Interrupts(self._raise_flag)
        self._scratch: Path | None = None
        self._device: Device | None = None
        self._state = ProcessState()
        self._collected = time.monotonic()
        self._scarce = False
        self._checked = self._headroom = 0.0
        self._clock = StageClock(lambda: self._loaded.server.last_node_id)
        self._read_ahead: ReadAhead | None = None
        self._libraries: list[Piece] = []

    @property
    def report(self) -> LoadReport:
        """Report of the load."""
        return self._loaded.report

    @property
    def unsafe_to_fork(self) -> list[str]:
        """Node packs that left threads running, with which a forked child can hang."""
        return self._loaded.report.unsafe_to_fork

    @property
    def device(self) -> str | None:
        """Display name of the device that jobs run on; None before ``attach``."""
        return self._device.name if self._device is not None else None

    @property
    def _loaded(self) -> Comfy:
        if self._comfy is None:
            raise RuntimeError("the engine is not loaded")
        return self._comfy

    def load(self) -> None:
        """Import ComfyUI and the node packs, and preload weights. Later calls do nothing.

        Raises:
            UnsupportedComfyError: This engine does not support the checkout.
            PreloadError: A file to preload does not exist or is not a safetensors file.
        """
        if self._comfy is None:
            self._comfy = load_comfy(self.options)
            self._new_executor()
            install_hook(self._comfy, self._interrupts)
            keep_texts_whole(self._comfy.execution)
            self._clock.install()
            if self.options.read_ahead_libraries != "off":
                self._find_libraries()

    def attach(self) -> None:
        """Find the device, reseed, create new folders, and import the ``after_restore`` packs. If
        called again on the same device, as after a GPU snapshot, results and models are kept.

        Raises:
            DeviceMissingError: The options require a CUDA device, and none was found.
        """
        comfy = self._loaded
        self._read_libraries()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch = Path(tempfile.mkdtemp(prefix="comfysnap-", dir=os.environ.get(SCRATCH)))
        before, self._device = self._device, comfy.attachment.attach(self.options.device)
        reseed(self._device.kind)
        comfy.pack_devices.give(comfy.management.get_torch_device())
        load_deferred(comfy)  # before the folders change, as for the other packs
        restore_functions()
        self._fit_executor(keep=before in (None, self._device))
        self._leave_job()
        self._state = ProcessState()

    def interrupt(self, job_id: str) -> None:
        """Stop a job, from any thread."""
        self._interrupts.request(job_id)

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Run one job to its end.

        Raises:
            EngineError: The job failed.
            EngineInterrupted: ``interrupt`` was called for it.
            BrokenDeviceError: CUDA is unusable; this process must be restarted.
        """
        comfy = self._loaded
        if self._device is None:
            self.attach()
        with self._interrupts.running(job.job_id):
            if self._interrupts.requested:
                raise EngineInterrupted
            reseed(self._device.kind if self._device else None)
            set_job_folders(comfy.folder_paths, job.input_dir, job.output_dir)
            self._caches.before_job()
            self._clock.reset()
            run = _Run(comfy, self._executor, self._interrupts, job, report, self._before_nodes)
            process = os.getpid()
            try:
                result = asyncio.run(run.run())
                return replace(result, stages=self._stages(run, result.node_seconds))
            except EngineError as error:
                self._after_error(error, run)
                raise
            except Exception:
                raise
            except BaseException as error:
                if os.getpid() != process:  # a child that a node forked
                    os._exit(0)
                if isinstance(error, asyncio.CancelledError) and self._interrupts.requested:
                    raise EngineInterrupted from None
                self._new_executor()
                raise run.aborted(error) from error
            finally:
                self._after_job(run)

    def _find_libraries(self) -> None:
        """Find the pages of libraries that a job touches."""
        report, reason = self.report, None
        if self.options.read_ahead_libraries == "auto" and all(map(is_local, libraries())):
            reason = "they are on local disks"
        elif report.unsafe_to_fork:
            reason = f"{', '.join(report.unsafe_to_fork)} left threads running"
        else:
            try:
                self._libraries = touched_pages(self._run_small_job)
            except LibraryPagesError as error:
                reason = str(error)
        if reason is not None:
            logger.info("libraries are not read ahead: %s", reason)
            return
        report.library_bytes = sum(piece.size for piece in self._libraries)
        logger.info("a job touches %d MiB of libraries", report.library_bytes / 2**20)

    def _run_small_job(self, folder: Path) -> None:
        """Run in a fork: a small job on the CPU, as a snapshot has no GPU. CUDA is hidden, since a
        fork cannot use what its parent initialised."""
        on_cpu = self.options.device != "cuda"
        self.options = self.options.model_copy(update={"device": "cpu"})
        self._loaded.after_restore.clear()
        with masked(MaskRecord(), lambda _: None):
            with small_job("library-pages") as job:
                self.run(job, lambda _: None)
            use_libraries(folder, on_cpu=on_cpu)

    def _read_libraries(self) -> None:
        if self._libraries:
            pieces = functools.partial(
                library_pieces, self._libraries, self.options.read_ahead_libraries
            )
            ReadAhead(pieces, read_ahead_budget, largest=LARGEST_PIECE).start()

    def _after_error(self, error: EngineError, run: "_Run") -> None:
        if error.problem.code == ErrorCode.OUT_OF_MEMORY:
            self._free_memory()
        if is_broken_device(run.failure):
            raise BrokenDeviceError(run.failure) from error

    def _before_nodes(self, graph: Graph, nodes: list[str]) -> None:
        """Make room for the models that nodes will load, and read their files ahead."""
        comfy = self._loaded
        if loader_nodes(graph).isdisjoint(nodes):
            return
        find = functools.partial(
            model_files, graph, nodes, comfy.folder_paths, preloaded=comfy.weights.sizes
        )
        if self._caches.holds_unused:
            files = find()
            self._make_room(files)
            find = functools.partial(list[ModelFile], files)
        if self.options.read_ahead == "off":
            return
        mode = self.options.read_ahead
        self._read_ahead = ReadAhead(lambda: model_pieces(find(), mode), read_ahead_budget)
        self._read_ahead.start()

    def _make_room(self, files: list[ModelFile]) -> None:
        """Drop the models of other workflows now, if memory may not hold them and the new ones."""
        share = CPU_MODEL_SIZE if self._device is None or self._device.kind == "cpu" else 1.0
        needed = share * sum(file.size for file in files)
        now = memory()
        if not files or now.available - needed > now.total * self.options.free_memory:
            return
        self._trim(scarce=True)
        release()
        self._loaded.management.soft_empty_cache()
        logger.info("dropped the models of other workflows, to load %d MiB", needed / 2**20)

    def _stages(self, run: "_Run", seconds: Mapping[str, float]) -> StageSeconds:
        ahead = self._read_ahead
        return self._clock.stages(
            seconds,
            loaders=loader_nodes(run.graph),
            savers=run.output_nodes(),
            read=ahead.seconds if ahead is not None else None,
        )

    def _trim(self, *, scarce: bool, ending: Iterable[Path] = ()) -> None:
        self._caches.trim(
            max_entries=self.options.cache_entries or None,
            max_bytes=self.options.cache_bytes,
            scarce=scarce,
            ending=ending,
        )

    def _after_job(self, run: "_Run") -> None:
        comfy = self._loaded
        if self._read_ahead is not None:
            self._read_ahead.stop()
            self._read_ahead = None
        self._caches.forget(run.job_local_nodes())
        scarce = self._memory_is_scarce()
        self._trim(scarce=scarce, ending=run.folders)
        comfy.server.listener = None
        comfy.nodes.interrupt_processing(False)
        run.remove_temp()
        self._leave_job()
        self._state.restore()
        if scarce or time.monotonic() - self._collected > COLLECT_INTERVAL:  # models are in cycles
            gc.collect()
            comfy.management.soft_empty_cache()
            restore_functions()
            self._collected = time.monotonic()

    def _memory_is_scarce(self) -> bool:
        """Whether memory is low; checked at most once per ``MEMORY_INTERVAL``."""
        now = time.monotonic()
        if now - self._checked > MEMORY_INTERVAL:
            self._check_memory()
        return self._scarce

    def _check_memory(self) -> float:
        """See whether memory is low; returns the headroom of the executor."""
        found, self._checked = memory(), time.monotonic()
        self._scarce = found.share < self.options.free_memory
        return memory_headroom(found.total, self.options.free_memory)

    def _free_memory(self) -> None:
        """Unload every model and drop every result, so that the next job has all the memory."""
        management = self._loaded.management
        self._new_executor()
        management.unload_all_models()
        release()
        management.soft_empty_cache()
        logger.warning("memory ran out: all models were unloaded")

    def _fit_executor(self, *, keep: bool) -> None:
        """Replace the executor, unless its results may be kept and its limits are those of this
        machine."""
        headroom = self._check_memory()
        if not keep or headroom != self._headroom:
            self._new_executor(headroom)

    def _new_executor(self, headroom: float | None = None) -> None:
        comfy = self._loaded
        self._headroom = self._check_memory() if headroom is None else headroom
        policy = CachePolicy(entries=self.options.cache_entries, headroom=self._headroom)
        self._executor = comfy.api.new_executor(comfy.server, policy)
        self._caches = ResultCaches(self._executor)

    def _leave_job(self) -> None:
        """Switch to scratch folders, so that nothing writes into a job's folder between jobs."""
        if self._scratch is not None:
            set_job_folders(
                self._loaded.folder_paths, self._scratch / "input", self._scratch / "output"
            )

    def _raise_flag(self) -> None:
        self._loaded.nodes.interrupt_processing(True)


class _Run:
    """One job."""

    def __init__(
        self, comfy: Comfy, executor: Any, interrupts: Interrupts, job: EngineJob, report: Report,
        before_nodes: Callable[[Graph, list[str]], None],
    ) -> None:  # fmt: skip
        self._comfy = comfy
        self._executor = executor
        self._interrupts = interrupts
        self._job = job
        self._report = report
        self._before_nodes = before_nodes
        self._graph = job.graph
        self._key = ApiKey(comfy.options.api_key_variable)
        self._key.keep_out_of_logs()
        self._began = time.time()
        self._files = [path.name for path in job.input_dir.iterdir()]  # before a node deletes one
        self._ui: Mapping[str, Any] = {}
        self._kept_temp: set[Path] = set()
        outputs = {spec.node for spec in job.outputs.values()}
        self._saved = SavedFiles(job.graph, outputs, job.output_dir)
        self._events: JobEvents | None = None
        self.failure = ""
        """Message of the node that failed."""

    async def run(self) -> EngineResult:
        graph, extra = self._prompt()
        valid, error, outputs, node_errors = await self._comfy.api.validate(self._job.job_id, graph)
        if not valid or node_errors:
            raise validation_error(self._graph, self._job.fields, error, node_errors)
        events = self._new_events(outputs)
        self._events = events
        follow(self._comfy, events, self._interrupts)
        await self._execute(graph, extra, outputs)
        self._judge(events)
        folders = Folders(self._job.output_dir, self._comfy.default_dirs, self._began)
        try:
            produced = collect(self._graph, self._job.outputs, self._ui, folders, self._saved)
        except EngineError:  # the job keeps the outputs that are as they should be
            for node in {spec.node for spec in self._job.outputs.values()}:
                self._report_outputs(node)
            raise
        for items in produced.values():
            self._kept_temp.update(i.path for i in items if isinstance(i, ProducedFile))
        return EngineResult(outputs=produced, node_seconds=events.node_seconds)

    def _new_events(self, outputs: list[str]) -> JobEvents:
        options = self._comfy.options
        show = functools.partial(
            preview_jpeg, longest=options.preview_size, max_bytes=options.preview_bytes
        )
        return JobEvents(
            self._graph,
            planned_nodes(self._graph, outputs),
            self._report,
            preview=show if self._job.options.previews else None,
            interrupted=lambda: self._interrupts.requested,
            origin=self._origin,
            saved=self._saved,
            on_finish=self._report_outputs,
            on_cached=functools.partial(self._on_cached, outputs),
        )

    def _on_cached(self, outputs: list[str], cached: Collection[str]) -> None:
        nodes = planned_nodes(self._graph, outputs, cached)
        self._before_nodes(self._graph, nodes[::-1])  # loaders come last, and run first

    @property
    def graph(self) -> Graph:
        """The graph that runs, after the prompt handlers of node packs."""
        return self._graph

    def output_nodes(self) -> list[str]:
        """The output nodes of the graph."""
        return [node for node in self._graph if getattr(self._class_of(node), "OUTPUT_NODE", False)]

    def _report_outputs(self, node: str) -> None:
        """Report the outputs of a node of the graph, unless nodes that it created may still add to
        them. Files outside of the job's folder stay where they are until the end."""
        specs = {name: spec for name, spec in self._job.outputs.items() if spec.node == node}
        if not specs or self._events is None or self._has_created(node):
            return
        folders = Folders(self._job.output_dir)
        try:
            produced = collect(self._graph, specs, self._events.ui, folders, self._saved)
        except (EngineError, OSError):  # the same comes at the end
            return
        for name, items in produced.items():
            self._report(NodeOutput(name=name, items=items))

    def _has_created(self, node: str) -> bool:
        dynamic: Any = self._comfy.progress.get_progress_state().dynprompt
        created: Iterable[str] = getattr(dynamic, "ephemeral_prompt", {})
        return any(self._origin(other) == node for other in created)

    def _prompt(self) -> tuple[Graph, dict[str, Any]]:
        """A copy of the graph and its extra data, after the prompt handlers of node packs
        (``add_on_prompt_handler``), which fill in wildcards and seeds."""
        server = self._comfy.server
        drawing = self._job.drawing
        data = {} if drawing is None else {"extra_pnginfo": {"workflow": dict(drawing)}}
        posted: Any = server.trigger_on_prompt(
            {"prompt": copy_graph(self._job.graph), "client_id": CLIENT_ID, "extra_data": data}
        )
        api = self._comfy.api
        try:
            graph: Graph = posted["prompt"]
            extra: dict[str, Any] = posted.get("extra_data") or {}
            api.replace_nodes(server, graph)
            self._graph = copy_graph(graph)
        except (TypeError, KeyError, AttributeError) as error:
            detail = f"a node pack's prompt handler returned an invalid graph ({error!r})"
            raise EngineError(ErrorCode.GRAPH_INVALID, detail) from error
        server.last_prompt_id, server.last_node_id = self._job.job_id, None
        extra |= api.preview_data(self._job.options.previews)
        return graph, {**extra, **self._key.extra_data, "client_id": CLIENT_ID}

    async def _execute(self, graph: Graph, extra: dict[str, Any], outputs: list[str]) -> None:
        """Run the executor in a task, so that an interrupt can cancel it while it waits."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            self._executor.execute_async(graph, self._job.job_id, extra, outputs)
        )
        self._interrupts.wake_with(lambda: loop.call_soon_threadsafe(task.cancel))
        try:
            await task
        finally:
            self._interrupts.wake_with(None)
        history: Any = getattr(self._executor, "history_result", None) or {}
        self._ui = by_graph_node(history.get("outputs", {}), self._origin)

    def _origin(self, node: str) -> str:
        """The node of the submitted graph that created a node while it ran, or the node itself."""
        return self._comfy.progress.get_progress_state().dynprompt.get_real_node_id(node)

    def _judge(self, events: JobEvents) -> None:
        """Raise if the job failed, according to the last message; ``executor.success`` is never
        reset."""
        verdict, data = self._executor.status_messages[-1]
        if verdict == "execution_interrupted" or self._interrupts.requested:
            raise EngineInterrupted
        if verdict == "execution_success" and events.blocked is None:
            return
        if events.blocked is not None:
            data = events.blocked
        if "node_id" not in data:
            raise EngineError(ErrorCode.ENGINE_FAILED, f"ComfyUI ended the job with {verdict}")
        data = {
            **data,
            "exception_message": self._key.redact(str(data.get("exception_message", ""))),
        }
        self.failure = data["exception_message"]
        logger.error(
            "job %s: %s failed: %s\n%s",
            self._job.job_id,
            describe_node(self._graph, str(data["node_id"])),
            self.failure.strip(),
            self._key.redact("".join(data.get("traceback") or ())),
        )
        if self._job.drawing is None and misses_drawing(self._class_of(str(data["node_id"])), data):
            data["exception_message"] = f"{self.failure.strip()}; {NO_DRAWING}"
        raise node_error(self._graph, self._job.fields, data)

    def _class_of(self, node: str) -> Any:
        entry = self._graph.get(self._origin(node))
        return self._comfy.nodes.NODE_CLASS_MAPPINGS.get(entry["class_type"]) if entry else None

    def aborted(self, error: BaseException) -> EngineError:
        """The error for an exception that ComfyUI does not catch (``SystemExit``, a cancelled
        task), attributed to the node that ran."""
        node = self._comfy.server.last_node_id
        logger.error("job %s: node %s aborted it", self._job.job_id, node, exc_info=error)
        if node is None:
            return EngineError(ErrorCode.NODE_FAILED, f"a node failed during validation: {error!r}")
        message = {
            "node_id": node,
            "exception_type": type(error).__name__,
            "exception_message": repr(error),
        }
        return node_error(self._graph, self._job.fields, message)

    def job_local_nodes(self) -> set[str]:
        """The nodes whose results must not outlive the job. Empty if the job did not start: the
        caches then still hold the keys of the previous job."""
        if self._events is None:
            return set()
        classes = self._comfy.nodes.NODE_CLASS_MAPPINGS
        local = set(self._events.job_local)
        if self._job.drawing is not None:  # which is not in the key of a result
            local |= {node for node in self._graph if reads_drawing(self._class_of(node))}
        return local | job_local_nodes(
            self._graph,
            {self._origin(node) for node in local},
            self._files,
            is_output=lambda kind: bool(getattr(classes.get(kind), "OUTPUT_NODE", False)),
            has_fingerprint=lambda kind: _has_fingerprint(classes.get(kind)),
        )

    @property
    def folders(self) -> tuple[Path, Path]:
        """The folders that are deleted after the job."""
        return self._job.input_dir, self._job.output_dir

    def remove_temp(self) -> None:
        """Delete temp files that are not outputs."""
        temp = self._job.output_dir / TEMP
        if not self._kept_temp:
            shutil.rmtree(temp, ignore_errors=True)
            return
        for path in temp.rglob("*"):
            if path.is_file() and path not in self._kept_temp:
                path.unlink(missing_ok=True)


def _has_fingerprint(kind: Any) -> bool:
    return hasattr(kind, "IS_CHANGED") or "fingerprint_inputs" in vars(kind or object)


def copy_graph(graph: Graph) -> Graph:
    """Copy a graph for the executor, which modifies it (``is_changed``, converted values)."""
    return {node: {**entry, "inputs": _copy(entry["inputs"])} for node, entry in graph.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_copy(item) for item in cast("list[Any]", value)]
    return value
