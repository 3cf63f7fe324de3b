"""Loads an unmodified ComfyUI checkout into this process, as ``main.py`` would."""

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from comfysnap_server.engine.comfyui.folders import apply_model_paths, confine_inputs
from comfysnap_server.engine.comfyui.mask import MaskRecord, masked
from comfysnap_server.engine.comfyui.options import ComfyOptions
from comfysnap_server.engine.comfyui.packs import (
    LoadCustomNode,
    Pack,
    PackNames,
    find_packs,
    is_listed,
    load_pack,
    run_prestartup,
)
from comfysnap_server.engine.comfyui.release import (
    TESTED,
    Surface,
    UnsupportedComfyError,
    is_tested,
    read_version,
    surface,
)
from comfysnap_server.engine.comfyui.report import LoadReport
from comfysnap_server.engine.comfyui.server import make_prompt_server
from comfysnap_server.engine.comfyui.warm import warm_imports
from comfysnap_server.engine.comfyui.weights import WeightStore, resolve, serve_from_memory

logger = logging.getLogger(__name__)

THREADING: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
"""Read when the libraries are loaded; what is set before wins. OpenMP's threads wait asleep: when
other processes need the cores, spinning made a diffusion job on a CPU take four times as long."""


@dataclass
class Comfy:
    """An imported ComfyUI."""

    options: ComfyOptions
    surface: Surface
    server: Any
    nodes: Any
    execution: Any
    folder_paths: Any
    management: Any
    progress: Any
    homes: dict[str, Path]
    """ComfyUI's own folders for ``output`` and ``temp``."""
    own_nodes: frozenset[str]
    """Classes that node packs may not replace."""
    prestartup: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    after_restore: list[Pack] = field(default_factory=list[Pack])
    weights: WeightStore = field(default_factory=WeightStore)
    report: LoadReport = field(default_factory=LoadReport)

    def load_custom_node(self) -> LoadCustomNode:
        """ComfyUI's loader for one node pack."""

        async def load(path: str) -> bool:
            found = await self.nodes.load_custom_node(
                path, set(self.own_nodes), module_parent="custom_nodes"
            )
            return bool(found)

        return load


def load_comfy(options: ComfyOptions) -> Comfy:
    """Import ComfyUI, its nodes and the node packs; open nothing, run nothing.

    Raises:
        UnsupportedComfyError: The folder is no ComfyUI that this engine can drive.
        PreloadError: A file to preload is not there, or no safetensors file.
    """
    version = read_version(options.checkout)
    _refuse_second_load(options.checkout)
    report = LoadReport(version=version, tested=is_tested(version))
    if not report.tested:
        report.notes.append(f"ComfyUI {version} is outside {TESTED[0]} to {TESTED[1]}, as tested")
        logger.warning("%s", report.notes[-1])
    record = MaskRecord()
    with contextlib.ExitStack() as stack:
        _enter_checkout(options.checkout)
        with _timed(report, "paths"):
            folder_paths = _configure(options)
        folders = [Path(folder) for folder in folder_paths.get_folder_paths("custom_nodes")]
        packs = find_packs(folders, options.disabled_nodes) if options.custom_nodes else []
        with _timed(report, "torch"):
            stack.enter_context(_without_threads())
            if options.mask_cuda:
                stack.enter_context(masked(record, PackNames(folders)))
        try:
            comfy = _import(options, report, version, packs, folder_paths)
        finally:
            report.masked_calls = list(record.calls.values())
    with _timed(report, "settle"):
        gc.collect()
        gc.freeze()
    return comfy


def _import(
    options: ComfyOptions, report: LoadReport, version: str, packs: list[Pack], folder_paths: Any
) -> Comfy:
    deferred = [pack for pack in packs if is_listed(pack.name, options.after_restore)]
    with _timed(report, "prestartup"):
        prestartup = run_prestartup(packs)
    with _timed(report, "core"):
        weights = WeightStore()
        serve_from_memory(importlib.import_module("comfy.utils"), weights)
        # before `nodes`, which puts comfy/ first on sys.path, where `utils` is another module
        importlib.import_module("utils.extra_config")
        execution = importlib.import_module("execution")
        server_module = importlib.import_module("server")
        nodes = importlib.import_module("nodes")
        calls = surface(version, execution, nodes)
    loop = asyncio.new_event_loop()
    try:
        server = make_prompt_server(server_module, loop)
        with _timed(report, "nodes"):
            failed = loop.run_until_complete(calls.init_nodes(options.api_nodes))
            report.own_failures = [str(name) for name in failed or ()]
        comfy = Comfy(
            options=options, surface=calls, server=server, nodes=nodes, execution=execution,
            folder_paths=folder_paths,
            homes={kind: Path(folder_paths.get_directory_by_type(kind))
                   for kind in ("output", "temp")},
            management=importlib.import_module("comfy.model_management"),
            progress=importlib.import_module("comfy_execution.progress"),
            own_nodes=frozenset(nodes.NODE_CLASS_MAPPINGS), prestartup=prestartup,
            after_restore=deferred, weights=weights, report=report,
        )  # fmt: skip
        with _timed(report, "packs"):
            loop.run_until_complete(_load_packs(comfy, [p for p in packs if p not in deferred]))
    finally:
        _close(loop, report)
    server.loop = None
    confine_inputs(folder_paths)
    with _timed(report, "weights"):
        for path in resolve(options.preload, folder_paths.get_full_path):
            weights.add(path)
        report.preloaded = weights.sizes
    if options.warm_imports:
        with _timed(report, "warm"):
            warm_imports()
    return comfy


async def _load_packs(comfy: Comfy, packs: list[Pack]) -> None:
    load = comfy.load_custom_node()
    for pack in packs:
        comfy.report.packs.append(await load_pack(pack, load, comfy.prestartup))


def load_deferred(comfy: Comfy) -> None:
    """Import the packs of the ``after_restore`` list; each once."""
    while comfy.after_restore:
        pack = comfy.after_restore.pop(0)
        comfy.report.packs.append(
            asyncio.run(
                load_pack(pack, comfy.load_custom_node(), comfy.prestartup, after_restore=True)
            )
        )


def _close(loop: asyncio.AbstractEventLoop, report: LoadReport) -> None:
    """No event loop may be left in a snapshot, nor in a process that is forked."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        names = ", ".join(sorted(getattr(task.get_coro(), "__qualname__", "?") for task in left))
        report.notes.append(f"a node pack left tasks on the loop, which were cancelled: {names}")
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _refuse_second_load(checkout: Path) -> None:
    loaded = sys.modules.get("folder_paths")
    if loaded is not None:
        raise UnsupportedComfyError(
            f"this process already holds the ComfyUI at {loaded.__file__}; {checkout} needs a "
            "process of its own"
        )


def _enter_checkout(checkout: Path) -> None:
    """Node packs rely on main.py's working folder and path."""
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def _configure(options: ComfyOptions) -> Any:
    """Parse the arguments (once for the life of the process) and read the model paths."""
    arguments = sys.argv
    sys.argv = ["main.py", *options.arguments]
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        parsed = importlib.import_module("comfy.cli_args").args
    except SystemExit as error:
        raise UnsupportedComfyError(
            f"ComfyUI does not take these arguments: {' '.join(options.arguments)}"
        ) from error
    finally:
        sys.argv = arguments
    # without the front end's package, PromptServer would end the process
    parsed.front_end_root = parsed.front_end_root or str(options.checkout)
    folder_paths = importlib.import_module("folder_paths")
    extra = importlib.import_module("utils.extra_config")
    apply_model_paths(options.checkout, options.extra_model_paths, extra.load_extra_path_config)
    return folder_paths


@contextmanager
def _without_threads() -> Generator[None]:
    """Start no threads while loading: a fork would lose them and hang, and nobody could tell
    them from those of a node pack.

    torch's come with the first job; those of OpenBLAS, which numpy and scipy bring, do not.
    """
    added = {name: value for name, value in THREADING.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with _one_torch_thread():
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _one_torch_thread() -> Generator[None]:
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _timed(report: LoadReport, phase: str) -> Generator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        report.seconds[phase] = time.perf_counter() - started
