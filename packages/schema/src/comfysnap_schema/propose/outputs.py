"""Proposes the outputs of a workflow, named by what makes them."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from comfysnap_schema.propose.names import OutputRole, distinctive_words, output_of, slug, unique
from comfysnap_schema.propose.roles import file_kind
from comfysnap_schema.propose.view import GraphView
from comfysnap_schema.wire import KINDS, Kind
from comfysnap_schema.workflow import OutputSpec

COMPARISONS: Final = frozenset({"ImageCompare"})
"""Previews that authors add to look at the result: outputs beside saved files too."""
_VAGUE_PREFIX: Final = re.compile(
    r"comfyui|(image|video|audio|output|result|test|file|text)s?", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class ProposedOutput:
    """One output, ready to be written as ``[outputs.name]``."""

    name: str
    spec: OutputSpec
    enabled: bool
    reason: str
    named: bool = False
    """Whether it has a name of its own, by its title, its prefix or what makes it."""


def proposed_outputs(view: GraphView, chosen: Sequence[str]) -> tuple[ProposedOutput, ...]:
    """The outputs, enabled ones first.

    Args:
        view: The graph.
        chosen: Output nodes that the author chose; empty: those that save, and previews of kinds
            that nothing saves.
    """
    every = dict(_roles(view))
    roles = {node: role for node, role in every.items() if not _is_untouched(view, node, role)}
    roles = roles or every
    saved = {role.kind for role in roles.values() if not role.preview}
    wanted = set(chosen) & roles.keys()
    enabled = {
        node: node in wanted
        if wanted
        else not (role.preview and role.kind in saved) or view.class_of(node) in COMPARISONS
        for node, role in roles.items()
    }
    ordered = sorted(roles, key=lambda node: (not enabled[node], [*KINDS].index(roles[node].kind)))
    hints = _hints(view, {node: roles[node] for node in ordered}, enabled)
    found: list[ProposedOutput] = []
    for node in ordered:
        role = roles[node]
        found.append(
            ProposedOutput(
                name=unique(hints[node] or role.name, (), {entry.name for entry in found}),
                spec=OutputSpec(node=node, kind=role.kind, many=role.many),
                enabled=enabled[node],
                named=bool(hints[node]),
                reason=_reason(view, node, enabled[node], bool(wanted)),
            )
        )
    return tuple(found)


def _roles(view: GraphView) -> Iterator[tuple[str, OutputRole]]:
    for node in view.outputs:
        role = output_of(view.class_of(node), view.inputs(node))
        if role is not None:
            yield node, role


def _is_untouched(view: GraphView, node: str, role: OutputRole) -> bool:
    """Whether a preview shows an input of the workflow as it is."""
    if not role.preview and role.kind is not Kind.TEXT:
        return False
    origins = [origin for _, origin, _ in view.links(node)]
    return bool(origins) and all(
        not list(view.links(origin))
        and any(
            file_kind(view, path, value) is not None or path.name in ("value", "text")
            for path, value in view.values(origin)
        )
        and not view.inputs(origin).keys() & {"seed", "model"}
        for origin in origins
    )


def _hints(
    view: GraphView, roles: dict[str, OutputRole], enabled: dict[str, bool]
) -> dict[str, str]:
    """Node to its name; empty where the role's own will do: it is the only one of its kind, or
    nothing distinguishes it."""
    names = Counter(role.name for node, role in roles.items() if enabled[node])
    options = {node: list(_options(view, node, role)) for node, role in roles.items()}
    shared = Counter(hint for hints in options.values() for hint in set(hints))
    found: dict[str, str] = {}
    for node, role in roles.items():
        own = [hint for hint in options[node] if shared[hint] == 1]
        found[node] = own[0] if own and (names[role.name] > 1 or not enabled[node]) else ""
    return found


def _options(view: GraphView, node: str, role: OutputRole) -> Iterator[str]:
    """Names for an output: its prefix, its title, then the titles of what makes it."""
    prefix = str(view.inputs(node).get("filename_prefix", "")).rsplit("/", 1)[-1]
    prefix = re.sub(r"^comfyui[^a-z0-9]*", "", prefix, flags=re.IGNORECASE)
    title = distinctive_words(view.title(node), view.class_of(node))
    yield from (name for name in (title, _of_prefix(prefix, role.name)) if name)
    at = node
    for _ in range(6):
        origins = [origin for _, origin, _ in view.links(at) if origin in view.makers]
        if len(origins) != 1:
            return
        at = origins[0]
        made = distinctive_words(view.title(at), view.class_of(at))
        if made:
            yield made


def _of_prefix(prefix: str, name: str) -> str:
    if len(prefix) < 2 or _VAGUE_PREFIX.fullmatch(prefix):
        return ""
    return slug(prefix) or slug(f"{name}_{prefix}")


def _reason(view: GraphView, node: str, enabled: bool, chosen: bool) -> str:
    made = f"the output of {view.title(node)!r} ({view.class_of(node)})"
    if enabled:
        return f"{made}, chosen in App Mode" if chosen else made
    return f"{made}; not chosen in App Mode" if chosen else f"{made}; a preview beside saved files"
