"""Which ComfyUI versions the engine works with: signatures, looked up at run time."""

import importlib.util
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TESTED: Final = ("0.3.48", "0.3.64")
"""First and last version that the tests ran on; between them 0.3.49, 0.3.50, 0.3.52, 0.3.56 and
0.3.60. Up to 0.3.47 ``nodes.init_extra_nodes`` was no coroutine."""
PINNED_COMMIT: Final = "637221995f7424a561bd825de3e61ea117dfe1e3"
"""The commit of release v0.3.64, which ``comfysnap comfyui install`` takes."""
REPOSITORY: Final = "https://github.com/Comfy-Org/ComfyUI"


class UnsupportedComfyError(Exception):
    """The folder is no ComfyUI, or one that this engine does not know how to drive."""


@dataclass(frozen=True)
class Surface:
    """The calls of one ComfyUI version, under one shape."""

    version: str
    validate: Callable[[str, Any], Coroutine[Any, Any, tuple[bool, Any, list[str], Any]]]
    executor: Callable[[Any, int], Any]
    """Server and number of kept node results to a ``PromptExecutor``."""
    init_nodes: Callable[[bool], Coroutine[Any, Any, Any]]
    """Load ComfyUI's own nodes (API nodes too, if true), without custom ones."""


def read_version(checkout: Path) -> str:
    """The version that a checkout calls itself, without importing it.

    Raises:
        UnsupportedComfyError: The folder is no ComfyUI checkout.
    """
    wanted = ("execution.py", "nodes.py", "folder_paths.py", "server.py")
    missing = [name for name in wanted if not (checkout / name).is_file()]
    if missing:
        raise UnsupportedComfyError(f"{checkout} is no ComfyUI checkout: no {', '.join(missing)}")
    try:
        text = (checkout / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        raise UnsupportedComfyError(
            f"{checkout} is older than ComfyUI {TESTED[0]}: it has no comfyui_version.py"
        ) from None
    for line in text.splitlines():
        if line.startswith("__version__"):
            return line.partition("=")[2].strip().strip("\"'")
    raise UnsupportedComfyError(f"{checkout}/comfyui_version.py names no version")


def is_tested(version: str) -> bool:
    """Whether the tests ran on a version in whose range this one lies."""
    return _key(TESTED[0]) <= _key(version) <= _key(TESTED[1])


def surface(version: str, execution: Any, nodes: Any) -> Surface:
    """Bind the calls of an imported ComfyUI.

    Raises:
        UnsupportedComfyError: A call is missing or has a shape that is not known.
    """
    problems = [
        *([] if _has_progress() else ["no comfy_execution.progress"]),
        *_check("validate_prompt", getattr(execution, "validate_prompt", None), (2, 3)),
        *_check("init_extra_nodes", getattr(nodes, "init_extra_nodes", None), (0,)),
    ]
    executor = getattr(execution, "PromptExecutor", None)
    if not hasattr(executor, "execute_async"):
        problems.append("no PromptExecutor.execute_async")
    if not hasattr(nodes, "load_custom_node"):
        problems.append("no load_custom_node")
    if problems:
        raise UnsupportedComfyError(
            f"ComfyUI {version} is not supported ({'; '.join(problems)}); the tests ran on "
            f"{' to '.join(TESTED)}"
        )
    return Surface(
        version=version,
        validate=_bind_validate(execution.validate_prompt),
        executor=_bind_executor(execution),
        init_nodes=_bind_init(nodes),
    )


def _has_progress() -> bool:
    try:
        return importlib.util.find_spec("comfy_execution.progress") is not None
    except ModuleNotFoundError:
        return False


def _check(name: str, function: Any, positional: tuple[int, ...]) -> list[str]:
    if function is None or not inspect.iscoroutinefunction(function):
        return [f"no async {name}"]
    required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if len(required) not in positional:
        return [f"{name}{inspect.signature(function)} is not known"]
    return []


def _bind_validate(validate: Any) -> Callable[[str, Any], Coroutine[Any, Any, Any]]:
    if len(inspect.signature(validate).parameters) == 2:
        return validate
    return lambda prompt_id, prompt: validate(prompt_id, prompt, None)


def _bind_executor(execution: Any) -> Callable[[Any, int], Any]:
    parameters = inspect.signature(execution.PromptExecutor.__init__).parameters
    lru = getattr(getattr(execution, "CacheType", None), "LRU", None)

    def build(server: Any, entries: int) -> Any:
        if lru is None or not entries:
            return execution.PromptExecutor(server)
        if "cache_size" in parameters:
            return execution.PromptExecutor(server, cache_type=lru, cache_size=entries)
        arguments = {"lru": entries, "ram": 0.0}
        return execution.PromptExecutor(server, cache_type=lru, cache_args=arguments)

    return build


def _bind_init(nodes: Any) -> Callable[[bool], Coroutine[Any, Any, Any]]:
    known = inspect.signature(nodes.init_extra_nodes).parameters

    def init(api_nodes: bool) -> Coroutine[Any, Any, Any]:
        wanted = {"init_custom_nodes": False, "init_api_nodes": api_nodes}
        return nodes.init_extra_nodes(**{k: v for k, v in wanted.items() if k in known})

    return init


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
