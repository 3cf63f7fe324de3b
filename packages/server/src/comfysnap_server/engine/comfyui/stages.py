"""Measures in which stage a job's seconds are spent: loading models, sampling, storing."""

import functools
import importlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from comfysnap_server.engine.protocol import StageSeconds

_LOAD: Final = "load"
_SAMPLE: Final = "sample"
_MEASURED: Final = (
    ("comfy.model_management", "load_models_gpu", _LOAD),
    ("comfy.samplers", "CFGGuider.sample", _SAMPLE),
)
"""Module, function and stage. Nodes call both through their module or class."""


class StageClock:
    """Seconds in ComfyUI's functions, each without those in a function that it called."""

    def __init__(self, node: Callable[[], str | None]) -> None:
        self._node = node
        self._inner: list[float] = []
        self._seconds: dict[tuple[str, str | None], float] = {}

    def install(self) -> None:
        """Measure the functions that this release has."""
        for name, path, stage in _MEASURED:
            try:
                holder: Any = importlib.import_module(name)
            except ImportError:
                continue
            *parents, last = path.split(".")
            for parent in parents:
                holder = getattr(holder, parent, None)
            function = getattr(holder, last, None)
            if function is not None:
                setattr(holder, last, self._measured(function, stage))

    def reset(self) -> None:
        """Start a job."""
        self._inner, self._seconds = [], {}

    def stages(
        self,
        nodes: Mapping[str, float],
        *,
        loaders: Collection[str],
        savers: Iterable[str],
        read: float | None,
    ) -> StageSeconds:
        """The stages of the job.

        Args:
            nodes: Seconds of each node that ran.
            loaders: Nodes that load models, all of whose time is loading.
            savers: Output nodes.
            read: Seconds of reading ahead.
        """
        load = sum(nodes.get(node, 0.0) for node in loaders)
        load += sum(
            seconds
            for (stage, node), seconds in self._seconds.items()
            if stage == _LOAD and node not in loaders
        )
        sample = sum(seconds for (stage, _), seconds in self._seconds.items() if stage == _SAMPLE)
        store = sum(nodes.get(node, 0.0) for node in savers)
        return StageSeconds(read=read, load=load, sample=sample, store=store)

    def _measured(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.perf_counter() - started
                inner = self._inner.pop() if self._inner else 0.0
                key = stage, self._node()
                self._seconds[key] = self._seconds.get(key, 0.0) + whole - inner
                if self._inner:
                    self._inner[-1] += whole

        return measured
