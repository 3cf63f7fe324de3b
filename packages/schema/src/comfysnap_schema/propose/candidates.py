"""Collects the inputs of a graph that a caller may want to set: texts and files; then settings."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.comfy import InputPath, ShownWidget
from comfysnap_schema.propose.names import class_word, distinctive_words, slug
from comfysnap_schema.propose.roles import (
    FILES,
    NEGATIVE,
    PROMPT,
    SETTING,
    TEXT,
    Candidate,
    Role,
    file_kind,
    is_service,
)
from comfysnap_schema.propose.settings import settings
from comfysnap_schema.propose.tracing import FoundText, Side, find_prompts, texts_behind
from comfysnap_schema.propose.view import VALUE_NAMES, GraphView
from comfysnap_schema.wire import Kind

_ENCODES_TWICE: Final = "t5xxl"
"""FLUX's encoder: a caller has one prompt for it and for the smaller one beside it."""
_OWN_NAMES: Final = frozenset({"tags", "lyrics", "system_prompt", "instruction"})
_DIRECT_PROMPTS: Final = frozenset(
    {
        "prompt", "positive_prompt", "positive", "text", "user_prompt", "prompt_text",
        "text_prompt",
    }
)  # fmt: skip
_DIRECT_NEGATIVES: Final = frozenset({"negative_prompt", "negative"})
_MAIN: Final = frozenset({"", "user", "main"})
_PLAIN_TEXTS: Final = frozenset({"value", "text", "string", "prompt", "string_a", "string_b"})


def candidates(view: GraphView, shown: Sequence[ShownWidget] = ()) -> Iterator[Candidate]:
    """Every candidate; the first one for an input takes precedence.

    Args:
        view: The graph.
        shown: Widgets that the author shows.
    """
    yield from _prompts(view)
    yield from _files(view)
    yield from settings(view)
    yield from _shown(view, shown)


def _prompts(view: GraphView) -> Iterator[Candidate]:
    found = find_prompts(view)
    positive = [text for text in found if text.side == "positive"]
    filled = [text for text in positive if _text(view, text.path)]
    yield from _side(view, filled or positive, PROMPT)
    yield from _side(view, [text for text in found if text.side == "negative"], NEGATIVE)
    yield from _direct_prompts(view, {text.path for text in found}, bool(positive))


def _side(view: GraphView, texts: list[FoundText], role: Role) -> Iterator[Candidate]:
    """Of several texts, the one whose title has no distinctive word is the prompt; the others are
    named by theirs: ``system_prompt``."""
    several = len({str(view.value(text.path)) for text in texts}) > 1
    distinctive = {text.path: _distinctive(view, text.path.node) for text in texts}
    texts = sorted(texts, key=lambda text: text.guide not in view.painters)
    main = next((text for text in texts if distinctive[text.path] in _MAIN), None)
    for text in sorted(texts, key=lambda text: text is not main):
        words = distinctive[text.path]
        special = several and words not in _MAIN and (main is not None or _differ(distinctive))
        yield _prompt(view, text, role, f"{words}_{role.name}" if special else "")


def _differ(distinctive: Mapping[InputPath, str]) -> bool:
    return len(set(distinctive.values())) == len(distinctive) > 1


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
        value=_text(view, text.path),
        node=text.path.node,
        reason=reason,
        name=own or name or _prompt_name(view, text, role),
        enabled=enabled,
        hints=(
            _distinctive(view, text.path.node),
            _distinctive(view, text.guide),
            "" if text.guide in view.painters else class_word(view.class_of(text.guide)),
        ),
    )


def _text(view: GraphView, path: InputPath) -> JsonValue:
    """The text at a path; that of the large encoder for the smaller ones beside it."""
    large = view.inputs(path.node).get(_ENCODES_TWICE)
    return large if path.name in _ENCODER_TEXTS and isinstance(large, str) else view.value(path)


def _prompt_name(view: GraphView, text: FoundText, role: Role) -> str:
    """Texts of one encoder have separate names when they differ: ``prompt_clip_l``."""
    siblings = {
        str(value)
        for path, value in view.values(text.path.node)
        if value and path.name in _ENCODER_TEXTS
    }
    twice = _ENCODES_TWICE in view.inputs(text.path.node)
    if len(siblings) > 1 and not twice and text.path.name in _ENCODER_TEXTS - _LONG_TEXTS:
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
            last = name.rsplit(".", 1)[-1]
            negative = last in _DIRECT_NEGATIVES
            if not negative and last not in _DIRECT_PROMPTS:
                continue
            service = is_service(view, node) and node in view.makers
            role = NEGATIVE if negative else TEXT if prompted and not service else PROMPT
            side: Side = "negative" if negative else "positive"
            for path, _ in texts_behind(view, node, name, side):
                if path not in traced:
                    traced.add(path)
                    yield _direct(view, path, node, role)
    yield from _other_texts(view, traced)


def _direct(view: GraphView, path: InputPath, node: str, role: Role) -> Candidate:
    own = _distinctive(view, path.node)
    distinctive = own or _distinctive(view, node)
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
            own = slug(path.name.rsplit(".", 1)[-1])
            uses = [name for _, name, _ in view.consumers[node]]
            names = [distinctive, own, *uses]
            service = is_service(view, node) and node in view.makers
            yield Candidate(
                role=TEXT, path=path, value=value, node=node,
                enabled=service and not own.startswith("system"),
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
    uses = list(_uses(view, path.node))
    special = [use for use in uses if not _PLAIN_USE.fullmatch(use)]
    return Candidate(
        role=role,
        path=path,
        value=value,
        node=path.node,
        reason=f"the file that {view.title(path.node)!r} reads",
        name=_file_name(title, special, role.name),
        kind=kind,
        hints=() if title else tuple(special),
    )


def _uses(view: GraphView, node: str) -> Iterator[str]:
    """What a file is for: the inputs that it is linked to, or a telling one behind its encoder."""
    for user, name, _ in view.consumers[node]:
        use = slug(name.rsplit(".", 1)[-1])
        behind = [slug(far.rsplit(".", 1)[-1]) for _, far, _ in view.consumers[user]]
        telling = len(behind) == 1 and _TELLING.fullmatch(behind[0])
        yield behind[0] if telling and _PLAIN_USE.fullmatch(use) else use


_TELLING: Final = re.compile(
    r"(front|back|left|right|start|end|first|last|reference|ref|control|background|subject|style"
    r"|pose|face)(_(image|frame|video))?"
)
_PLAIN_USE: Final = re.compile(
    r"(images?|pixels|mask|videos?|audios?|input|model_file|value|file|media|frames)(_?\d+)?"
)


def _file_name(title: str, uses: list[str], base: str) -> str:
    """Named by the title, else by the use: ``Reference Image`` is ``reference_image``."""
    if title:
        return title if title.endswith(base) else f"{title}_{base}"
    use = uses[0] if len(set(uses)) == 1 else ""
    if base in use.split("_"):
        return use
    return f"{use}_{base}" if _TELLING.fullmatch(use) else base


def _shown(view: GraphView, shown: Sequence[ShownWidget]) -> Iterator[Candidate]:
    for index, widget in enumerate(shown):
        for path in widget.paths:
            source = view.source(path.node, path.name)
            value = view.value(source) if source else None
            if source is not None and value is not None:
                own = slug(widget.name) not in {"", *VALUE_NAMES}
                title = _distinctive(view, path.node)
                yield Candidate(
                    role=SETTING, path=source, value=value, node=path.node,
                    reason=f"{widget.name}, which the author shows",
                    name=slug(widget.name) if own else title, group=f"shown {index}",
                )  # fmt: skip
