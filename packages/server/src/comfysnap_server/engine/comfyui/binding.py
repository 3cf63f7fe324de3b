"""One interface to all supported ComfyUI releases, bound by inspecting the imported modules.

No other code in the engine depends on the version. ``bind`` reports all missing capabilities
together, before anything runs.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from comfysnap_schema.comfy import Graph
from comfysnap_server.pins import TESTED, UnsupportedComfyError

Coro = Coroutine[Any, Any, Any]

ASSET_MANAGER: Final = "app.assets.manager"
"""From 0.38 on ``PromptServer`` takes one of its classes as its second argument."""


@dataclass(frozen=True, kw_only=True)
class CachePolicy:
    """Limits of ComfyUI's result cache."""

    entries: int
    """Maximum number of node results; 0 keeps only those of the last prompt."""
    headroom: float
    """GiB of host memory to keep free: results of other prompts are dropped below it."""


@dataclass(frozen=True, kw_only=True)
class ComfyAPI:
    """The functions of one imported ComfyUI, with the same signatures for every release."""

    version: str
    validate: Callable[[str, Any], Coro]
    """Prompt id and graph to ``(valid, error, output nodes, node_errors)``."""
    new_executor: Callable[[Any, CachePolicy], Any]
    """Server and cache policy to a ``PromptExecutor``."""
    init_nodes: Callable[[bool], Coro]
    """Load ComfyUI's own nodes (API nodes too, if true), without custom ones."""
    load_custom_node: Callable[[str, set[str]], Coro]
    """Import one node pack; classes of the given names are not replaced."""
    server_arguments: Callable[[], tuple[Any, ...]]
    """Arguments of ``PromptServer`` after the loop."""
    replace_nodes: Callable[[Any, Graph], None]
    """Replace removed node classes with their successors, in place (since 0.14)."""
    preview_data: Callable[[bool], Mapping[str, str]]
    """Turn previews on or off; returns entries for the prompt's ``extra_data``."""


def bind(version: str, execution: Any, nodes: Any, server: Any) -> ComfyAPI:
    """Bind an imported ComfyUI.

    Args:
        version: Version of the checkout, for messages.
        execution: The module ``execution``.
        nodes: The module ``nodes``.
        server: The module ``server``.

    Raises:
        UnsupportedComfyError: A capability is missing or has an unknown signature; all are listed.
    """
    missing = [problem for problem in _probes(execution, nodes, server) if problem]
    if missing:
        raise UnsupportedComfyError(
            f"ComfyUI {version} is not supported: {'; '.join(missing)}. Releases known to work: "
            f"{', '.join(TESTED)}"
        )
    return ComfyAPI(
        version=version,
        validate=_bind_validate(execution.validate_prompt),
        new_executor=_bind_executor(execution),
        init_nodes=_bind_init(nodes.init_extra_nodes),
        load_custom_node=lambda path, known: nodes.load_custom_node(
            path, known, module_parent="custom_nodes"
        ),
        server_arguments=_bind_server(server.PromptServer),
        replace_nodes=_replace_nodes,
        preview_data=_bind_previews(execution),
    )


def _probes(execution: Any, nodes: Any, server: Any) -> list[str | None]:
    executor = getattr(execution, "PromptExecutor", None)
    return [
        None if _module_exists("comfy_execution.progress") else "missing comfy_execution.progress",
        _coroutine(execution, "validate_prompt", required=(2, 3)),
        _coroutine(nodes, "init_extra_nodes", required=(0,)),
        _coroutine(nodes, "load_custom_node", required=(1,)),
        _coroutine(executor, "execute_async", required=(3,)),
        _accepts(executor, "PromptExecutor", after=1),
        _accepts(getattr(server, "PromptServer", None), "PromptServer", after=1, known=_SERVER),
    ]


_SERVER: Final = frozenset({"asset_manager"})


def _module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _coroutine(owner: Any, name: str, *, required: tuple[int, ...]) -> str | None:
    function = getattr(owner, name, None)
    if function is None or not inspect.iscoroutinefunction(function):
        return f"missing async {name}"
    needed = _required(function)
    return None if len(needed) in required else f"unknown {name}{inspect.signature(function)}"


def _accepts(
    kind: Any, name: str, *, after: int, known: frozenset[str] = frozenset()
) -> str | None:
    """Describe a class that needs more than ``after`` arguments and the known ones; else None."""
    if kind is None:
        return f"missing {name}"
    needed = _required(kind.__init__)[1:]
    unknown = set(needed[after:]) - known
    return f"unknown {name}{inspect.signature(kind.__init__)}" if unknown else None


def _required(function: Any) -> list[str]:
    parameters = inspect.signature(function).parameters
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [n for n, p in parameters.items() if p.default is p.empty and p.kind not in variadic]


def _bind_validate(validate: Any) -> Callable[[str, Any], Coro]:
    if len(inspect.signature(validate).parameters) == 2:
        return validate
    return lambda prompt_id, prompt: validate(prompt_id, prompt, None)


def _bind_executor(execution: Any) -> Callable[[Any, CachePolicy], Any]:
    parameters = inspect.signature(execution.PromptExecutor.__init__).parameters
    kinds: Any = getattr(execution, "CacheType", None)
    least_recent = getattr(kinds, "LRU", None)
    # drops results while a job runs, so models that do not fit are not kept together
    by_pressure = getattr(kinds, "RAM_PRESSURE", None) if _reads_inactive(execution) else None

    def build(server: Any, policy: CachePolicy) -> Any:
        if "cache_args" not in parameters:
            if least_recent is None or not policy.entries:
                return execution.PromptExecutor(server)
            return execution.PromptExecutor(
                server, cache_type=least_recent, cache_size=policy.entries
            )
        arguments = {
            "lru": policy.entries,
            "ram": policy.headroom,
            "ram_inactive": policy.headroom,
        }
        kind = (by_pressure or least_recent) if policy.entries else kinds.CLASSIC
        return execution.PromptExecutor(server, cache_type=kind, cache_args=arguments)

    return build


def _reads_inactive(execution: Any) -> bool:
    """Whether results of other prompts have a memory limit of their own (since 0.23)."""
    try:
        return "ram_inactive" in inspect.getsource(execution.PromptExecutor.execute_async)
    except (OSError, TypeError):
        return False


def _bind_init(init_extra_nodes: Any) -> Callable[[bool], Coro]:
    known = inspect.signature(init_extra_nodes).parameters

    def init(api_nodes: bool) -> Coro:
        wanted = {"init_custom_nodes": False, "init_api_nodes": api_nodes}
        return init_extra_nodes(**{k: v for k, v in wanted.items() if k in known})

    return init


def _bind_server(prompt_server: Any) -> Callable[[], tuple[Any, ...]]:
    if "asset_manager" not in inspect.signature(prompt_server.__init__).parameters:
        return tuple

    def arguments() -> tuple[Any, ...]:
        manager: Any = importlib.import_module(ASSET_MANAGER)
        parsed: Any = importlib.import_module("comfy.cli_args").args
        return (manager.NoAssets(parsed),)

    return arguments


def _replace_nodes(server: Any, graph: Graph) -> None:
    manager = getattr(server, "node_replace_manager", None)
    if manager is None:
        return
    for entry in graph.values():
        if manager.has_replacement(entry["class_type"]):
            entry.setdefault("_meta", {})  # the manager copies it unconditionally
    manager.apply_replacements(graph)


def _bind_previews(execution: Any) -> Callable[[bool], Mapping[str, str]]:
    """Bind the fast previews, which need no weights (``latent_preview.py``: Latent2RGBPreviewer).

    Since 0.5 each prompt sets the method in its ``extra_data``; before, it was an argument.
    """
    if hasattr(execution, "set_preview_method"):
        return lambda wanted: {"preview_method": "latent2rgb" if wanted else "none"}

    def set_argument(wanted: bool) -> Mapping[str, str]:
        arguments: Any = importlib.import_module("comfy.cli_args")
        methods = arguments.LatentPreviewMethod
        arguments.args.preview_method = methods.Latent2RGB if wanted else methods.NoPreviews
        return {}

    return set_argument
