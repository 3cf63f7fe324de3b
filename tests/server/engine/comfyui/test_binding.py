"""Differences between releases are detected, and missing functions are reported."""

import asyncio
import enum
import types
from typing import Any

import pytest

from comfysnap_server.engine.comfyui.binding import CachePolicy, ComfyAPI, bind
from comfysnap_server.pins import (
    TESTED,
    UnsupportedComfyError,
    is_tested,
    untested_note,
)

POLICY = CachePolicy(entries=7, headroom=2.0)


class CacheType(enum.Enum):
    CLASSIC = 0
    LRU = 1
    NONE = 2
    RAM_PRESSURE = 3


async def validate_prompt(prompt_id: str, prompt: Any, targets: Any) -> Any:
    return True, targets, [prompt_id], prompt


async def init_extra_nodes(init_custom_nodes: bool = True, init_api_nodes: bool = True) -> Any:
    return init_custom_nodes, init_api_nodes


async def load_custom_node(path: str, ignore: Any = None, module_parent: str = "x") -> Any:
    return path, ignore, module_parent


class Executor:
    """As since 0.3.68; up to 0.22 it reads no ``ram_inactive``."""

    def __init__(self, server: Any, cache_type: Any = False, cache_args: Any = None) -> None:
        self.made_with = (server, cache_type, cache_args)

    async def execute_async(
        self, prompt: Any, prompt_id: str, extra_data: Any = None, execute_outputs: Any = ()
    ) -> None: ...


class SizedExecutor:
    """As up to 0.3.67."""

    def __init__(self, server: Any, cache_type: Any = False, cache_size: Any = None) -> None:
        self.made_with = (server, cache_type, cache_size)

    execute_async = Executor.execute_async


class PressureExecutor(Executor):
    """As since 0.23."""

    async def execute_async(
        self, prompt: Any, prompt_id: str, extra_data: Any = None, execute_outputs: Any = ()
    ) -> None:
        self.headroom = self.made_with[2]["ram_inactive"]


class PromptServer:
    def __init__(self, loop: Any) -> None: ...


class PromptServerWithAssets:
    """As since 0.38."""

    def __init__(self, loop: Any, asset_manager: Any) -> None: ...


def bound(executor: Any = Executor, server: Any = PromptServer, **execution: Any) -> ComfyAPI:
    fields = {"validate_prompt": validate_prompt, "PromptExecutor": executor,
              "CacheType": CacheType, **execution}  # fmt: skip
    return bind(
        "0.33.0",
        types.SimpleNamespace(**fields),
        types.SimpleNamespace(init_extra_nodes=init_extra_nodes, load_custom_node=load_custom_node),
        types.SimpleNamespace(PromptServer=server),
    )


@pytest.fixture(autouse=True)
def has_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    def exists(_name: str) -> bool:
        return True

    monkeypatch.setattr("comfysnap_server.engine.comfyui.binding._module_exists", exists)


def test_an_unsupported_release_is_rejected_with_everything_missing_and_the_supported_ones() -> (
    None
):
    def not_async(prompt: Any) -> None: ...

    class Demanding:
        def __init__(self, loop: Any, surprise: Any) -> None: ...

    with pytest.raises(UnsupportedComfyError) as raised:
        bound(executor=None, server=Demanding, validate_prompt=not_async)
    text = str(raised.value)
    for part in ("async validate_prompt", "PromptExecutor", "surprise", *TESTED):
        assert part in text


def test_a_release_newer_than_the_tested_ones_is_used_with_one_warning() -> None:
    assert untested_note(TESTED[-1]) is None
    assert is_tested("0.3.65")
    assert "0.99.0" in (untested_note("0.99.0") or "")
    assert untested_note("0.3.47") is not None


@pytest.mark.parametrize(
    ("executor", "kind", "argument"),
    [
        (SizedExecutor, CacheType.LRU, 7),
        (Executor, CacheType.LRU, {"lru": 7, "ram": 2.0, "ram_inactive": 2.0}),
        (PressureExecutor, CacheType.RAM_PRESSURE, {"lru": 7, "ram": 2.0, "ram_inactive": 2.0}),
    ],
)
def test_the_executor_uses_the_best_cache_of_the_release(
    executor: Any, kind: CacheType, argument: Any
) -> None:
    assert bound(executor).new_executor("server", POLICY).made_with == ("server", kind, argument)


def test_without_entries_only_the_results_of_the_last_prompt_are_kept() -> None:
    policy = CachePolicy(entries=0, headroom=2.0)
    assert bound(PressureExecutor).new_executor("s", policy).made_with[1] is CacheType.CLASSIC
    assert bound(SizedExecutor).new_executor("s", policy).made_with == ("s", False, None)


def test_validation_is_called_with_the_arguments_of_the_release() -> None:
    async def without_targets(prompt_id: str, prompt: Any) -> Any:
        return False, None, [prompt_id], prompt

    assert asyncio.run(bound().validate("id", {})) == (True, None, ["id"], {})
    older = bound(validate_prompt=without_targets)
    assert asyncio.run(older.validate("id", {})) == (False, None, ["id"], {})


def test_core_nodes_load_without_custom_ones_and_packs_with_their_parent() -> None:
    api = bound()
    assert asyncio.run(api.init_nodes(True)) == (False, True)
    assert asyncio.run(api.load_custom_node("p", {"A"})) == ("p", {"A"}, "custom_nodes")


def test_the_server_gets_an_asset_manager_that_keeps_no_assets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    modules = {
        "app.assets.manager": types.SimpleNamespace(NoAssets=made.append),
        "comfy.cli_args": types.SimpleNamespace(args="the arguments"),
    }
    monkeypatch.setattr(
        "comfysnap_server.engine.comfyui.binding.importlib.import_module", modules.__getitem__
    )
    assert bound().server_arguments() == ()
    assert len(bound(server=PromptServerWithAssets).server_arguments()) == 1
    assert made == ["the arguments"]


def test_previews_are_set_in_the_prompt_if_the_release_supports_it() -> None:
    api = bound(set_preview_method=print)
    assert api.preview_data(True) == {"preview_method": "latent2rgb"}
    assert api.preview_data(False) == {"preview_method": "none"}


def test_previews_are_an_argument_in_older_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = types.SimpleNamespace(Latent2RGB="quick", NoPreviews="off")
    arguments = types.SimpleNamespace(LatentPreviewMethod=methods, args=types.SimpleNamespace())
    modules = {"comfy.cli_args": arguments}
    monkeypatch.setattr(
        "comfysnap_server.engine.comfyui.binding.importlib.import_module", modules.__getitem__
    )
    api = bound()
    assert api.preview_data(True) == {}
    assert arguments.args.preview_method == "quick"
    api.preview_data(False)
    assert arguments.args.preview_method == "off"


class ReplaceManager:
    def has_replacement(self, name: str) -> bool:
        return name == "Old"

    def apply_replacements(self, graph: Any) -> None:
        for entry in graph.values():
            if entry["class_type"] == "Old":
                entry |= {"class_type": "New", "_meta": entry["_meta"].copy()}


def test_removed_classes_are_replaced_if_the_release_supports_it() -> None:
    graph: Any = {
        "1": {"class_type": "Old", "inputs": {}},
        "2": {"class_type": "Kept", "inputs": {}},
    }
    api = bound()
    api.replace_nodes(types.SimpleNamespace(), graph)
    assert graph["1"]["class_type"] == "Old"
    api.replace_nodes(types.SimpleNamespace(node_replace_manager=ReplaceManager()), graph)
    assert [entry["class_type"] for entry in graph.values()] == ["New", "Kept"]
    assert "_meta" not in graph["2"]
