"""Connects the engine to ComfyUI's progress hook, progress registry and messages."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, Final, cast

from comfysnap_server.engine.comfyui.events import JobEvents
from comfysnap_server.engine.comfyui.interrupt import Interrupts
from comfysnap_server.engine.comfyui.load import Comfy

_IMAGE_EVENT: Final = 2
"""``UNENCODED_PREVIEW_IMAGE`` (``protocol.py``): an image that the server would encode and send."""


def install_hook(comfy: Comfy, interrupts: Interrupts) -> None:
    """Install the hook that samplers call at each step (``main.py``: hijack_progress)."""
    utils: Any = importlib.import_module("comfy.utils")
    context: Any = importlib.import_module("comfy_execution.utils")

    def hook(
        value: float, total: float, preview: Any, prompt_id: Any = None, node_id: Any = None
    ) -> None:
        interrupts.reassert()
        comfy.management.throw_exception_if_processing_interrupted()
        running = context.get_executing_context()
        node = node_id or (running.node_id if running else comfy.server.last_node_id)
        if node is not None:
            comfy.progress.get_progress_state().update_progress(node, value, total, preview)

    utils.set_progress_bar_global_hook(hook)


def follow(comfy: Comfy, events: JobEvents, interrupts: Interrupts) -> None:
    """Send ComfyUI's messages about the next prompt to ``events``."""

    def listen(event: Any, data: Any) -> None:
        if event == _IMAGE_EVENT and comfy.server.last_node_id is not None:
            events.send_image(str(comfy.server.last_node_id), data)
        if event in ("execution_start", "executing"):
            interrupts.reassert()
        if not isinstance(data, dict):
            return  # a node pack's own message
        message = cast("dict[str, Any]", data)
        if event == "execution_cached":
            _register(comfy.progress, events)
            events.cached(message["nodes"])
        elif event == "executed" and message.get("output"):
            events.report_ui(str(message.get("node")), message["output"])
        elif event == "execution_error" and message.get("exception_type") == "ExecutionBlocked":
            events.block(message)

    comfy.server.listener = listen


def _register(progress: Any, events: JobEvents) -> None:
    """Replace the front end's handler, whose every message contains the state of all nodes."""
    progress.get_progress_state().unregister_handler("webui")
    progress.add_progress_handler(_handler_class(progress)(events))


@functools.cache
def _handler_class(progress: Any) -> Callable[[JobEvents], Any]:
    class Handler(progress.ProgressHandler):
        def __init__(self, events: JobEvents) -> None:
            super().__init__("comfysnap")  # pyright: ignore[reportUnknownMemberType]  the base is ComfyUI's
            self._events = events

        def start_handler(self, node_id: str, state: Any, prompt_id: str) -> None:
            self._events.start(node_id)

        def update_handler(
            self, node_id: str, value: float, max_value: float, state: Any, prompt_id: str,
            image: Any = None,
        ) -> None:  # fmt: skip
            self._events.step(node_id, value, max_value, image)

        def finish_handler(self, node_id: str, state: Any, prompt_id: str) -> None:
            self._events.finish(node_id)

    return Handler


def keep_texts_whole(execution: Any) -> None:
    """Make one item of a text or an object that a node reports without a list: ComfyUI joins the
    ``ui`` of a node's calls item by item, which takes a text letter by letter."""
    original = execution.get_output_from_returns

    def get_output_from_returns(return_values: list[Any], obj: Any) -> Any:
        return original([_with_lists(value) for value in return_values], obj)

    execution.get_output_from_returns = get_output_from_returns


def _with_lists(returned: Any) -> Any:
    ui: Any = returned.get("ui") if isinstance(returned, dict) else getattr(returned, "ui", None)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(ui, dict):
        return returned  # pyright: ignore[reportUnknownVariableType]
    listed: dict[str, Any] = {}
    for key, item in cast("dict[str, Any]", ui).items():
        listed[key] = cast("Any", [item] if isinstance(item, (str, dict)) else item)
    if isinstance(returned, dict):
        return {**cast("dict[str, Any]", returned), "ui": listed}
    returned.ui = listed
    return returned
