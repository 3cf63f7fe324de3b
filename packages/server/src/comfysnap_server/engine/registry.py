"""From the name of an engine to the engine."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from pydantic import JsonValue

from comfysnap_server.engine.protocol import Engine

ENGINES: Mapping[str, str] = {
    "simulated": "comfysnap_server.engine.simulated.engine:SimulatedEngine",
    "comfyui": "comfysnap_server.engine.comfyui.engine:ComfyUIEngine",
}
"""Name to ``module:class``; the module is imported when the engine is made."""


class EngineChoiceError(Exception):
    """There is no such engine, or it does not know an option."""


def make_engine(name: str, options: Mapping[str, JsonValue] | None = None) -> Engine:
    """Make the engine called ``name``, or the class at ``module:class``.

    Args:
        name: A key of ``ENGINES``, or ``module:class`` of an engine of your own.
        options: Keyword arguments of the engine's class.

    Raises:
        EngineChoiceError: No such engine, or an option that it does not know.
    """
    target = ENGINES.get(name, name)
    module, colon, attribute = target.partition(":")
    if not colon:
        raise EngineChoiceError(f"no engine {name!r}; known are {', '.join(ENGINES)}")
    try:
        factory = cast("Callable[..., Any]", getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise EngineChoiceError(f"the engine {name!r} cannot be imported: {error}") from error
    try:
        return factory(**(options or {}))
    except (TypeError, ValueError) as error:
        raise EngineChoiceError(f"the options of the engine {name!r}: {error}") from error
