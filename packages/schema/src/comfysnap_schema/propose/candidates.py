"""Collects the inputs of a graph that a caller may want to set."""

from collections.abc import Iterator
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.comfy import InputPath
from comfysnap_schema.propose.names import distinctive_words, slug
from comfysnap_schema.propose.roles import (
    FILES,
    HEIGHT,
    NEGATIVE,
    PROMPT,
    SEED,
    SIZE,
    SWITCH,
    TEXT,
    WIDTH,
    Candidate,
    Role,
    file_kind,
    simple_role,
    sizes,
)
from comfysnap_schema.propose.tracing import FoundText, Side, find_prompts, texts_behind
from comfysnap_schema.propose.view import GraphView
from comfysnap_schema.wire import Kind

_OWN_NAMES: Final = frozenset({"tags", "lyrics", "system_prompt", "instruction"})
_DIRECT_PROMPTS: Final = frozenset(
    {"prompt", "positive_prompt", "positive", "text", "user_prompt", "prompt_text"}
)
_DIRECT_NEGATIVES: Final = frozenset({"negative_prompt", "negative"})
_MAIN: Final = frozenset({"", "user", "main"})
_PLAIN_TEXTS: Final = frozenset({"value", "text", "string", "prompt", "string_a", "string_b"})


def candidates(view: GraphView) -> Iterator[Candidate]:
    """Every candidate; the first one for an input takes precedence."""
    yield from _prompts(view)
    yield from _files(view)
    yield from _seeds(view)
    yield from _sizes(view)
    yield from _switches(view)
    yield from _simple(view)


def _prompts(view: GraphView) -> Iterator[Candidate]:
    found = find_prompts(view)
    positive = [text for text in found if text.side == "positive"]
    filled = [text for text in positive if view.value(text.path)]
    yield from _side(view, filled or positive, PROMPT)
    yield from _side(view, [text for text in found if text.side == "negative"], NEGATIVE)
    yield from _direct_prompts(view, {text.path for text in found}, bool(positive))


def _side(view: GraphView, texts: list[FoundText], role: Role) -> Iterator[Candidate]:
    """Of several texts, the one whose title has no distinctive word is the prompt; the others are
    named by theirs: ``system_prompt``."""
    several = len({str(view.value(text.path)) for text in texts}) > 1
    distinctive = {text.path: _distinctive(view, text.path.node) for text in texts}
    main = next((text for text in texts if distinctive[text.path] in _MAIN), None)
    for text in sorted(texts, key=lambda text: text is not main):
        special = several and main is not None and distinctive[text.path] not in _MAIN
        yield _prompt(view, text, role, f"{distinctive[text.path]}_{role.name}" if special else "")


def _distinctive(view: GraphView, node: str) -> str:
    return distinctive_words(view.title(node), view.class_of(node))


def _prompt(view: GraphView, text: FoundText, role: Role, name: str) -> Candidate:
    own = text.path.name if text.path.name in _OWN_NAMES else ""
    enabled = role is PROMPT or not _guidance_is_off(view, text.guide)
    reason = f"the text that reaches {text.side} of {view.title(text.guide)!r}"
    if not enabled:
        reason += "; its cfg of 1 ignores it"
    return Candidate(
        role=role,
        path=text.path,
        value=view.value(text.path),
        node=text.path.node,
        reason=reason,
        name=own or name or _prompt_name(view, text, role),
        enabled=enabled,
        hints=(_distinctive(view, text.guide),),
    )


def _prompt_name(view: GraphView, text: FoundText, role: Role) -> str:
    """Texts of one encoder have separate names when they differ: ``prompt_clip_l``."""
    siblings = {
        str(value)
        for path, value in view.values(text.path.node)
        if value and path.name in _ENCODER_TEXTS
    }
    if len(siblings) > 1 and text.path.name in _ENCODER_TEXTS - _LONG_TEXTS:
        return f"{role.name}_{text.path.name}"
    return role.name


_LONG_TEXTS: Final = frozenset({"t5xxl", "text_g", "mt5xl"})
_ENCODER_TEXTS: Final = _LONG_TEXTS | {"clip_l", "clip_g", "text_l", "llama", "bert"}


def _guidance_is_off(view: GraphView, node: str) -> bool:
    source = view.source(node, "cfg")
    return source is not None and view.value(source) == 1


def _direct_prompts(view: GraphView, traced: set[InputPath], prompted: bool) -> Iterator[Candidate]:
    """Texts of nodes that work without a sampler: services, speech, captions."""
    for node in view.order:
        for name in view.inputs(node):
            negative = name in _DIRECT_NEGATIVES
            if not negative and name not in _DIRECT_PROMPTS:
                continue
            role = NEGATIVE if negative else TEXT if prompted else PROMPT
            side: Side = "negative" if negative else "positive"
            for path, _ in texts_behind(view, node, name, side):
                if path not in traced:
                    traced.add(path)
                    yield _direct(view, path, node, role)
    yield from _other_texts(view, traced)


def _direct(view: GraphView, path: InputPath, node: str, role: Role) -> Candidate:
    distinctive = _distinctive(view, node)
    return Candidate(
        role=role,
        path=path,
        value=view.value(path),
        node=node,
        reason=f"the text of {view.title(node)!r}",
        name=distinctive if role is TEXT else "",
        enabled=role is not TEXT,
        hints=(distinctive,),
    )


def _other_texts(view: GraphView, traced: set[InputPath]) -> Iterator[Candidate]:
    for node in view.order:
        for path, value in view.values(node):
            known = view.input_def(path)
            if known is None or path in traced or known.type != "STRING" or not known.multiline:
                continue
            distinctive = _distinctive(view, node)
            uses = [name for _, name, _ in view.consumers[node]]
            names = [distinctive, path.name, *uses]
            yield Candidate(
                role=TEXT, path=path, value=value, node=node, enabled=False,
                reason=f"the text of {view.title(node)!r}",
                name=next((name for name in names if name and name not in _PLAIN_TEXTS), ""),
            )  # fmt: skip


def _files(view: GraphView) -> Iterator[Candidate]:
    for node in view.order:
        for path, value in view.values(node):
            kind = file_kind(view, path, value)
            if kind is not None:
                yield _file(view, path, value, kind)


def _file(view: GraphView, path: InputPath, value: JsonValue, kind: Kind) -> Candidate:
    role = FILES[kind]
    title = _distinctive(view, path.node)
    uses = [slug(name) for _, name, _ in view.consumers[path.node]]
    special = [use for use in uses if use not in _PLAIN_USES]
    return Candidate(
        role=role,
        path=path,
        value=value,
        node=path.node,
        reason=f"the file that {view.title(path.node)!r} reads",
        name=_file_name(title, special, role.name),
        kind=kind,
        hints=(title, *special),
    )


_PLAIN_USES: Final = frozenset(
    {"image", "images", "pixels", "mask", "video", "audio", "input", "image1", "model_file"}
)


def _file_name(title: str, uses: list[str], base: str) -> str:
    """Named by the title, else by the use: ``Reference Image`` is ``reference_image``."""
    if title:
        return title if title.endswith(base) else f"{title}_{base}"
    use = uses[0] if len(set(uses)) == 1 else ""
    return use if base in use.split("_") else base


def _seeds(view: GraphView) -> Iterator[Candidate]:
    for node in view.order:
        for name in ("seed", "noise_seed"):
            source = view.source(node, name) if name in view.inputs(node) else None
            value = view.value(source) if source else None
            if source is None or isinstance(value, bool) or not isinstance(value, int):
                continue
            off = view.inputs(node).get("add_noise") in ("disable", False)
            yield Candidate(
                role=SEED, path=source, value=value, node=node, random=True, enabled=not off,
                reason=f"the noise of {view.title(node)!r}"
                + ("; the node adds no noise, so the seed has no effect" if off else ""),
                hints=(_distinctive(view, node),),
            )  # fmt: skip


def _sizes(view: GraphView) -> Iterator[Candidate]:
    found = list(sizes(view))
    main: set[tuple[str, object]] = {
        (name, _at(view, node, name))
        for node, makes in found
        for name in ("width", "height")
        if makes
    }
    for node, makes in sorted(found, key=lambda each: not each[1]):
        ends = {name: view.source(node, name) for name in ("width", "height")}
        square = ends["width"] is not None and ends["width"] == ends["height"]
        for name, source in ends.items():
            value = view.value(source) if source else None
            if source is None or isinstance(value, bool) or not isinstance(value, int):
                continue
            agrees = (name, value) in main
            role = SIZE if square else (WIDTH if name == "width" else HEIGHT)
            yield Candidate(
                role=role, path=source, value=value, node=node, enabled=makes or agrees,
                reason=f"the size of {view.title(node)!r}",
                hints=(_distinctive(view, node), _purpose(view, node)),
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
    return "resize" if "scale" in view.class_of(node).lower() else ""


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
            enabled, why = _worth(view, node, role.name, value)
            yield Candidate(
                role=role, path=source, value=value, node=node, enabled=enabled,
                reason=f"{name} of {view.title(node)!r}{why}",
                hints=(_distinctive(view, node),), raw=slug(name),
            )  # fmt: skip


def _worth(view: GraphView, node: str, role: str, value: JsonValue) -> tuple[bool, str]:
    """Whether the input is useful to a caller, and if not, why."""
    if role == "cfg" and value == 1:
        return False, "; 1 means no guidance, as distilled models expect"
    if role == "denoise" and value == 1:
        return False, "; below 1 is for an input image"
    return True, ""
