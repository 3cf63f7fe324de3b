"""Loads an unmodified ComfyUI checkout into this process, as ``main.py`` does."""

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

from comfysnap_server.engine.comfyui.attach import Attachment, require_cuda
from comfysnap_server.engine.comfyui.binding import ComfyAPI, bind
from comfysnap_server.engine.comfyui.folders import add_models, confine_inputs
from comfysnap_server.engine.comfyui.mask import MaskRecord, masked
from comfysnap_server.engine.comfyui.options import ComfyOptions
from comfysnap_server.engine.comfyui.pack_devices import PackDevices
from comfysnap_server.engine.comfyui.packs import (
    THREADS_END,
    Leftovers,
    LoadCustomNode,
    Pack,
    PackNames,
    find_packs,
    is_listed,
    load_pack,
    run_prestartup,
)
from comfysnap_server.engine.comfyui.report import LoadReport
from comfysnap_server.engine.comfyui.server import make_prompt_server
from comfysnap_server.engine.comfyui.startup import start_up
from comfysnap_server.engine.comfyui.tokenizers import keep_tokenizers
from comfysnap_server.engine.comfyui.warm import warm_checks, warm_imports
from comfysnap_server.engine.comfyui.weights import WeightStore, resolve, serve_from_memory
from comfysnap_server.pins import UnsupportedComfyError, read_version, untested_note

logger = logging.getLogger(__name__)

THREADING: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment variables that libraries read when they are loaded; existing values win. OpenMP's
threads sleep while they wait: with other processes on the cores, spinning made a diffusion job on a
CPU take four times as long."""


@dataclass
class Comfy:
    """An imported ComfyUI."""

    options: ComfyOptions
    api: ComfyAPI
    server: Any
    nodes: Any
    execution: Any
    folder_paths: Any
    management: Any
    progress: Any
    default_dirs: dict[str, Path]
    """ComfyUI's own folders for ``output`` and ``temp``."""
    own_nodes: frozenset[str]
    """Node classes that node packs must not replace."""
    leftovers: Leftovers
    prestartup: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    pack_devices: PackDevices = field(default_factory=PackDevices)
    after_restore: list[Pack] = field(default_factory=list[Pack])
    weights: WeightStore = field(default_factory=WeightStore)
    report: LoadReport = field(default_factory=LoadReport)
    attachment: Attachment = field(default_factory=Attachment)

    def load_custom_node(self) -> LoadCustomNode:
        """ComfyUI's function that imports one node pack."""

        async def load(path: str) -> bool:
            return bool(await self.api.load_custom_node(path, set(self.own_nodes)))

        return load


def load_comfy(options: ComfyOptions) -> Comfy:
    """Import ComfyUI, its nodes and the node packs; opens no sockets and runs no graph.

    Raises:
        UnsupportedComfyError: The folder is not a ComfyUI checkout, or not a supported one.
        DeviceMissingError: CUDA is not masked, and the required GPU is missing.
        PreloadError: A file to preload does not exist or is not a safetensors file.
    """
    version = read_version(options.checkout)
    _refuse_second_load(options.checkout)
    report = LoadReport(version=version, tested=untested_note(version) is None)
    record = MaskRecord()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_collecting())
        with _timed(report, "paths"):
            folder_paths = start_up(options)
        folders = [Path(folder) for folder in folder_paths.get_folder_paths("custom_nodes")]
        packs = find_packs(folders, options.disabled_nodes) if options.custom_nodes else []
        pack_of = PackNames(folders)
        leftovers = Leftovers(pack_of)
        stack.enter_context(leftovers.naming_starters())
        with _timed(report, "torch"):
            stack.enter_context(_without_threads())
            if options.mask_cuda:
                stack.enter_context(masked(record, pack_of))
            elif options.device == "cuda":
                require_cuda()
        try:
            comfy = _import(options, report, version, packs, folder_paths, leftovers)
        finally:
            report.masked_calls = list(record.calls.values())
    note = untested_note(version)
    if note is not None:
        report.notes.append(note)
        logger.warning("%s", note)
    with _timed(report, "settle"):
        report.devices = comfy.pack_devices.find(pack_of)
        gc.collect()
        gc.freeze()
    return comfy


def _import(
    options: ComfyOptions, report: LoadReport, version: str, packs: list[Pack], folder_paths: Any,
    leftovers: Leftovers,
) -> Comfy:  # fmt: skip
    deferred = [pack for pack in packs if is_listed(pack.name, options.after_restore)]
    with _timed(report, "prestartup"):
        prestartup = run_prestartup(packs, leftovers)
    with _timed(report, "core"):
        weights = WeightStore()
        serve_from_memory(importlib.import_module("comfy.utils"), weights)
        attachment = _attachment(options)
        execution = importlib.import_module("execution")
        server_module = importlib.import_module("server")
        nodes = importlib.import_module("nodes")
        api = bind(version, execution, nodes, server_module)
        attachment.prepare()
    loop = asyncio.new_event_loop()
    try:
        server = make_prompt_server(server_module, loop, api.server_arguments())
        keep_functions()
        with _timed(report, "nodes"):
            failed = loop.run_until_complete(api.init_nodes(options.api_nodes))
            report.own_failures = [str(name) for name in failed or ()]
        comfy = Comfy(
            options=options, api=api, server=server, nodes=nodes, execution=execution,
            folder_paths=folder_paths,
            default_dirs={kind: Path(folder_paths.get_directory_by_type(kind))
                   for kind in ("output", "temp")},
            management=importlib.import_module("comfy.model_management"),
            progress=importlib.import_module("comfy_execution.progress"),
            own_nodes=frozenset(nodes.NODE_CLASS_MAPPINGS), prestartup=prestartup,
            after_restore=deferred, weights=weights, report=report, attachment=attachment,
            leftovers=leftovers,
        )  # fmt: skip
        with _timed(report, "packs"):
            loop.run_until_complete(_load_packs(comfy, [p for p in packs if p not in deferred]))
    finally:
        _close(loop, report)
    server.loop = None
    report.packs = leftovers.settle(report.packs, THREADS_END)
    restore_functions()
    confine_inputs(folder_paths)
    if options.remote_models is not None:
        add_models(folder_paths, options.remote_models)
    with _timed(report, "weights"):
        for path in resolve(options.preload, folder_paths.get_full_path):
            weights.add(path)
        report.preloaded = weights.sizes
    if options.warm_imports:
        with _timed(report, "warm"):
            warm_imports()
            warm_checks()
            keep_tokenizers()
    folder_paths.filename_list_cache.clear()  # as attach does, where a fork would copy it first
    return comfy


async def _load_packs(comfy: Comfy, packs: list[Pack]) -> None:
    load = comfy.load_custom_node()
    for pack in packs:
        comfy.report.packs.append(await load_pack(pack, load, comfy.prestartup, comfy.leftovers))


def load_deferred(comfy: Comfy) -> None:
    """Import the packs of the ``after_restore`` list, each once."""
    while comfy.after_restore:
        pack = comfy.after_restore.pop(0)
        load = load_pack(
            pack, comfy.load_custom_node(), comfy.prestartup, comfy.leftovers, after_restore=True
        )
        with comfy.leftovers.naming_starters():
            comfy.report.packs += comfy.leftovers.settle([asyncio.run(load)])
        if comfy.options.remote_models is not None:
            add_models(comfy.folder_paths, comfy.options.remote_models)


def _close(loop: asyncio.AbstractEventLoop, report: LoadReport) -> None:
    """Close the event loop, which must not remain in a snapshot or a forked process."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        names = ", ".join(sorted(getattr(task.get_coro(), "__qualname__", "?") for task in left))
        report.notes.append(f"a node pack left tasks running, which were cancelled: {names}")
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _refuse_second_load(checkout: Path) -> None:
    loaded = sys.modules.get("folder_paths")
    if loaded is not None:
        raise UnsupportedComfyError(
            f"this process has already loaded {loaded.__file__}; {checkout} needs another process"
        )


def _attachment(options: ComfyOptions) -> Attachment:
    """Postpone ``--use-ck-attention`` until the process is attached: without a GPU, it would end
    the process when ComfyUI is imported."""
    arguments: Any = importlib.import_module("comfy.cli_args").args
    wanted = options.mask_cuda and bool(getattr(arguments, "use_ck_attention", False))
    if wanted:
        arguments.use_ck_attention = False
    return Attachment(kitchen_attention=wanted)


def keep_functions() -> None:
    """Save the functions that node packs must not replace permanently (``main.py``)."""
    importlib.import_module("hook_breaker_ac10a0").save_functions()


def restore_functions() -> None:
    """Restore the functions that ``keep_functions`` saved."""
    importlib.import_module("hook_breaker_ac10a0").restore_functions()


@contextmanager
def _without_threads() -> Generator[None]:
    """Start no threads while loading: a forked child would hang without them, and they could not be
    distinguished from those of node packs.

    torch starts its threads with the first job; OpenBLAS (numpy, scipy) stays at one thread.
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
def _without_collecting() -> Generator[None]:
    """Do not collect garbage while loading: nearly all objects stay, and each pass visits them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
