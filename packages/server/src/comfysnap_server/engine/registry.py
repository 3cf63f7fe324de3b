"""Creates engines by name."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from pydantic import JsonValue

from comfysnap_server.engine.protocol import Engine
from comfysnap_server.errors import ComfysnapServerError

ENGINES: Mapping[str, str] = {
    "simulated": "comfysnap_server.engine.simulated.engine:SimulatedEngine",
    "comfyui": "comfysnap_server.engine.comfyui.engine:ComfyUIEngine",
}
"""``module:class`` by name; the module is imported when the engine is created."""


class EngineChoiceError(ComfysnapServerError):
    """Unknown engine, or invalid options."""


def make_engine(name: str, options: Mapping[str, JsonValue] | None = None) -> Engine:
    """Create an engine.

    Args:
        name: A key of ``ENGINES``, or ``module:class`` of your own engine.
        options: Keyword arguments of the engine's class.

    Raises:
        EngineChoiceError: Unknown engine, or invalid options.
    """
    target = ENGINES.get(name, name)
    module, colon, attribute = target.partition(":")
    if not colon:
        raise EngineChoiceError(f"unknown engine {name!r}; available: {', '.join(ENGINES)}")
    try:
        factory = cast("Callable[..., Any]", getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise EngineChoiceError(f"cannot import engine {name!r}: {error}") from error
    try:
        return factory(**(options or {}))
    except (TypeError, ValueError) as error:
        raise EngineChoiceError(f"invalid options of engine {name!r}: {error}") from error
