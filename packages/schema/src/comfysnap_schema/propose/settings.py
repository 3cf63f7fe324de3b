"""Collects the settings of a graph: seeds, sizes, steps, strengths."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.comfy import InputPath
from comfysnap_schema.propose.names import distinctive_words, slug
from comfysnap_schema.propose.roles import (
    HEIGHT,
    SEED,
    SETTING,
    SIZE,
    SWITCH,
    WIDTH,
    Candidate,
    Role,
    simple_role,
    sizes,
)
from comfysnap_schema.propose.view import GraphView

SEED_NAME: Final = re.compile(r"(noise_|rand(om)?_?)?seed(_?num(ber)?)?", re.IGNORECASE)
_FAST_LORA: Final = re.compile(
    r"lightning|turbo|hyper|lcm|distil|dmd|\d+.?steps?|accelera|causvid|lightx2v|fast",
    re.IGNORECASE,
)


def settings(view: GraphView) -> Iterator[Candidate]:
    """Every setting; the first one for an input takes precedence."""
    yield from _seeds(view)
    yield from _sizes(view)
    yield from _switches(view)
    yield from _simple(view)
    yield from _knobs(view)


def _seeds(view: GraphView) -> Iterator[Candidate]:
    found = {path: path.node for path in _seed_inputs(view)}
    chains = _chains(view, {node: view.source(*_pair(path)) for path, node in found.items()})
    for path, node in found.items():
        source = view.source(node, path.name)
        value = view.value(source) if source else None
        if source is None or isinstance(value, bool) or not isinstance(value, int):
            continue
        off = view.inputs(node).get("add_noise") in ("disable", False)
        yield Candidate(
            role=SEED, path=source, value=value, node=node, random=True, enabled=not off,
            reason=f"the noise of {view.title(node)!r}"
            + ("; the node adds no noise, so the seed has no effect" if off else ""),
            hints=(_words(view, node),),
            group="" if off else chains[node],
        )  # fmt: skip


def _words(view: GraphView, node: str) -> str:
    return distinctive_words(view.title(node), view.class_of(node))


def _pair(path: InputPath) -> tuple[str, str]:
    return path.node, path.name


def _seed_inputs(view: GraphView) -> Iterator[InputPath]:
    for node in view.order:
        for name in view.inputs(node):
            if SEED_NAME.fullmatch(name.rsplit(".", 1)[-1]):
                yield InputPath(node, name)


def _chains(view: GraphView, seeds: Mapping[str, InputPath | None]) -> dict[str, str]:
    """Node to the last node with a seed that it leads to: one seed sets a whole chain. Chains that
    end in equal seeds are one, because their author keeps them equal."""
    of_stage = {_stage(view, node): node for node in seeds}
    before = {
        node: [of_stage[each] for each in view.behind(stage) if each in of_stage]
        for stage, node in of_stage.items()
    }
    inner = {each for node, nodes in before.items() for each in nodes if each != node}
    chains: dict[str, str] = {}
    of_value: dict[JsonValue, str] = {}
    for last in (node for node in before if node not in inner):
        source = seeds[last]
        chain = of_value.setdefault(view.value(source) if source else None, last)
        for node in before[last]:
            chains.setdefault(node, chain)
    return chains | {node: node for node in seeds if node not in chains}


def _stage(view: GraphView, node: str) -> str:
    """The node that uses a seed: a sampler whose noise is made by a node of its own."""
    users = [user for user, name, _ in view.consumers[node] if name == "noise"]
    return users[0] if users else node


def _sizes(view: GraphView) -> Iterator[Candidate]:
    found = list(sizes(view))
    main: set[tuple[str, object]] = {
        (role.name, _at(view, size.node, name))
        for size in found
        for role, name in zip((WIDTH, HEIGHT), size.names, strict=True)
        if size.makes
    }
    for size in sorted(found, key=lambda each: not each.makes):
        node = size.node
        ends = [view.source(node, name) for name in size.names]
        square = ends[0] is not None and ends[0] == ends[1]
        resizes = node in view.makers and _purpose(view, node) == "resize"
        for side, source in zip((WIDTH, HEIGHT), ends, strict=True):
            value = view.value(source) if source else None
            if source is None or isinstance(value, bool) or not isinstance(value, int):
                continue
            agrees = (side.name, value) in main
            yield Candidate(
                role=SIZE if square else side, path=source, value=value, node=node,
                enabled=size.makes or agrees or resizes,
                reason=f"the size of {view.title(node)!r}",
                hints=(_words(view, node), _purpose(view, node)),
            )  # fmt: skip
    yield from _target_sizes(view, main)


def _target_sizes(view: GraphView, main: set[tuple[str, object]]) -> Iterator[Candidate]:
    """SDXL's encoders take the size as well."""
    for node in view.order:
        for name, role in (("target_width", WIDTH), ("target_height", HEIGHT)):
            source = view.source(node, name)
            if source is not None and (role.name, view.value(source)) in main:
                yield Candidate(
                    role=role, path=source, value=view.value(source), node=node,
                    reason=f"the size of {view.title(node)!r}",
                )  # fmt: skip


def _at(view: GraphView, node: str, name: str) -> JsonValue:
    source = view.source(node, name)
    return view.value(source) if source else None


def _purpose(view: GraphView, node: str) -> str:
    return "resize" if re.search("scale|resize", view.class_of(node), re.IGNORECASE) else ""


def _switches(view: GraphView) -> Iterator[Candidate]:
    """A sampler that starts where the previous one ends: both steps are one parameter."""
    for node in view.order:
        link = view.link(node, "latent_image")
        start = view.source(node, "start_at_step")
        end = view.source(link[0], "end_at_step") if link else None
        if start is None or end is None or view.value(start) != view.value(end):
            continue
        for path in (end, start):
            yield Candidate(
                role=SWITCH, path=path, value=view.value(path), node=node,
                reason=f"where {view.title(node)!r} takes over",
            )  # fmt: skip


def _simple(view: GraphView) -> Iterator[Candidate]:
    for node in view.order:
        for name in view.inputs(node):
            source = view.source(node, name)
            value = view.value(source) if source else None
            if source is None or value is None:
                continue
            role = simple_role(view, InputPath(node, name), value)
            if role is None:
                continue
            enabled, why = _worth(view, node, role, value)
            fast = role.name == "lora_strength" and not enabled
            yield Candidate(
                role=role, path=source, value=value, node=node, enabled=enabled,
                reason=f"{name} of {view.title(node)!r}{why}",
                hints=(_words(view, node),),
                raw="" if fast else slug(name.rsplit(".", 1)[-1]), group="fast" if fast else "",
            )  # fmt: skip


_VALUE_NODE: Final = re.compile(
    r"Primitive(Int|Float|Boolean|String)|CustomCombo|Constant$|Slider$", re.IGNORECASE
)


def _knobs(view: GraphView) -> Iterator[Candidate]:
    """Value nodes outside subgraphs: their author made them to be set."""
    for node in view.order:
        if ":" in node or not _VALUE_NODE.match(view.class_of(node)):
            continue
        uses = [slug(name.rsplit(".", 1)[-1]) for _, name, _ in view.consumers[node]]
        for path, value in view.values(node):
            if path.name in ("value", "choice"):
                title = _words(view, node)
                yield Candidate(
                    role=SETTING, path=path, value=value, node=node,
                    reason=f"the value of {view.title(node)!r}",
                    name=title or next(iter(uses), ""), group=str(path),
                )  # fmt: skip


def _worth(view: GraphView, node: str, role: Role, value: JsonValue) -> tuple[bool, str]:
    """Whether the input is useful to a caller, and if not, why."""
    if role.name == "cfg" and value == 1:
        return False, "; 1 means no guidance, as distilled models expect"
    if role.name == "scale" and node not in view.makers:
        return False, "; it does not change the result's size"
    if role.name == "denoise" and value == 1:
        return False, "; below 1 is for an input image"
    if role.name == "lora_strength" and _FAST_LORA.search(str(view.inputs(node).get("lora_name"))):
        return False, "; its LoRA makes few steps enough"
    return True, ""
