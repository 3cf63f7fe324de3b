"""Proposes an input map for a graph, as close as possible to one written by hand."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.comfy import (
    Catalogue,
    Drawing,
    Graph,
    InputDef,
    InputPath,
    ShownWidget,
    is_model_name,
)
from comfysnap_schema.propose.bounds import Place, bounds
from comfysnap_schema.propose.candidates import candidates
from comfysnap_schema.propose.names import class_word, output_of, slug, unique
from comfysnap_schema.propose.outputs import ProposedOutput, proposed_outputs
from comfysnap_schema.propose.roles import PROMPT, SEED, SETTING, Candidate
from comfysnap_schema.propose.view import VALUE_NAMES, GraphView
from comfysnap_schema.workflow import InputSpec, ParameterType, WorkflowSpec


@dataclass(frozen=True, kw_only=True)
class ProposedInput:
    """One parameter, ready to be written as ``[inputs.name]``."""

    name: str
    spec: InputSpec
    """Only the necessary keys; the rest comes from the graph and the catalogue."""
    enabled: bool
    """False: written commented out, for the user to enable."""
    reason: str
    """Why it is proposed, for the comment above the entry."""
    paths: tuple[InputPath, ...]
    value: JsonValue
    """The current value in the graph."""
    definition: InputDef | None
    """The definition of the first path in the catalogue."""
    nodes: tuple[str, ...]
    """Titles of the nodes, for display."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A proposed map for a graph.

    ``notes`` lists what the user should review: unknown classes, missing outputs.
    """

    name: str
    inputs: tuple[ProposedInput, ...]
    outputs: tuple[ProposedOutput, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def spec(self) -> WorkflowSpec:
        """The map with all enabled entries."""
        return WorkflowSpec(
            name=self.name,
            inputs={entry.name: entry.spec for entry in self.inputs if entry.enabled},
            outputs={entry.name: entry.spec for entry in self.outputs if entry.enabled},
        )


class _Names:
    """The names used so far."""

    def __init__(
        self, view: GraphView, groups: Iterable[list[Candidate]], outputs: Mapping[str, str]
    ) -> None:
        """``outputs`` is node to the one output that depends on it."""
        firsts = [_first(group) for group in groups]
        self._view = view
        self._classes = Counter((_base(first), self._word(first)) for first in firsts)
        self._outputs = outputs
        self._several = Counter(_base(first) for first in firsts)
        self._hints = Counter((_base(first), hint) for first in firsts for hint in set(first.hints))
        self._taken: set[str] = set()
        self._bases: set[tuple[str, str]] = set()

    def give(self, candidate: Candidate) -> str:
        """Pick a unique name; titles distinguish nodes, but not two inputs of one node."""
        base = _base(candidate)
        output = self._outputs.get(candidate.node, "") if self._several[base] > 1 else ""
        word = self._word(candidate)
        last = [output, word if self._classes[base, word] <= 1 else ""]
        hints = [hint for hint in candidate.hints if self._hints[base, hint] <= 1]
        if (base, candidate.node) in self._bases:
            hints, last = [], []
        elif output and candidate.role in (SEED, PROMPT):  # one for each of several outputs
            name = f"{output}_{base}"
            base, hints = (base, hints) if name in self._taken else (name, [])
        name = unique(base, hints, self._taken, raw=candidate.raw, last=last)
        self._bases.add((_base(candidate), candidate.node))
        self._taken.add(name)
        return name

    def _word(self, candidate: Candidate) -> str:
        return class_word(self._view.class_of(candidate.node))


def _base(candidate: Candidate) -> str:
    return slug(candidate.name) or candidate.role.name


def _first(group: list[Candidate]) -> Candidate:
    return next((each for each in group if each.enabled), group[0])


def propose(
    graph: Graph,
    catalogue: Catalogue | None = None,
    *,
    name: str,
    drawing: Drawing | None = None,
) -> Proposal:
    """Propose a map.

    Args:
        graph: In API format; never changed.
        catalogue: The server's node catalogue; without one, types and roles are inferred from
            values and names.
        name: The workflow's name.
        drawing: What the UI export says beside the graph. Inputs and outputs chosen in App Mode are
            the proposal; widgets that subgraphs show are proposed too.
    """
    view = GraphView(graph, catalogue)
    drawing = drawing or Drawing()
    outputs = proposed_outputs(view, drawing.outputs)
    return Proposal(
        name=name,
        inputs=_inputs(view, drawing, _only_outputs(view, outputs)),
        outputs=outputs,
        notes=tuple(_notes(view)),
    )


def _only_outputs(view: GraphView, outputs: tuple[ProposedOutput, ...]) -> dict[str, str]:
    """Node to the one output that depends on it, of several with names of their own."""
    enabled = [entry for entry in outputs if entry.enabled]
    found: dict[str, list[ProposedOutput]] = {}
    for entry in enabled if len(enabled) > 1 else ():
        for node in view.behind(entry.spec.node):
            found.setdefault(node, []).append(entry)
    return {
        node: entries[0].name
        for node, entries in found.items()
        if len(entries) == 1 and entries[0].named
    }


def _inputs(
    view: GraphView, drawing: Drawing, outputs: dict[str, str]
) -> tuple[ProposedInput, ...]:
    groups: dict[tuple[object, ...], list[Candidate]] = {}
    seen: set[InputPath] = set()
    for candidate in candidates(view, (*drawing.inputs, *drawing.shown)):
        if candidate.path not in seen:
            seen.add(candidate.path)
            groups.setdefault(_key(view, candidate), []).append(candidate)
    choice = _Choice(view, drawing, list(groups.values()))
    found: list[ProposedInput] = []
    names = _Names(view, (group for group in groups.values() if choice.takes(group)), outputs)
    ordered = sorted(groups.values(), key=lambda group: _rank(view, group))
    for group in sorted(ordered, key=lambda group: not choice.takes(group)):
        found.append(_entry(view, group, names, choice.takes(group)))
    return tuple(found)


def _rank(view: GraphView, group: list[Candidate]) -> tuple[int, bool, bool]:
    """Roles in their order; the sampler that makes the output takes precedence for the role's name,
    then an input of that name."""
    role = group[0].role
    prepares = role.name in _SAMPLING and not _makes(view, group)
    return role.rank, prepares, group[0].raw not in ("", role.name)


def _makes(view: GraphView, group: list[Candidate]) -> bool:
    return any(candidate.node in view.painters for candidate in group)


def _key(view: GraphView, candidate: Candidate) -> tuple[object, ...]:
    """Candidates with equal keys become one parameter: same role, same current value."""
    name = candidate.name or candidate.role.name
    if candidate.kind is not None:
        return name, candidate.path
    if candidate.group:
        return candidate.role.name, candidate.group
    prepares = candidate.role.name in _SAMPLING and candidate.node not in view.painters
    return name, prepares, type(candidate.value) is bool, candidate.value


_SAMPLING: Final = frozenset(
    {"seed", "steps", "cfg", "guidance", "sampler", "scheduler", "denoise", "switch_step"}
)
"""Roles of samplers; of those, a caller wants the ones that make the output."""


class _Choice:
    """Decides which parameters are enabled: the author's choice, else ours."""

    def __init__(self, view: GraphView, drawing: Drawing, groups: list[list[Candidate]]) -> None:
        self._view = view
        self._app = self._sources(drawing.inputs)
        self._shown = self._sources(drawing.shown)
        self._made = {group[0].role.name for group in groups if _makes(view, group)}

    def _sources(self, widgets: tuple[ShownWidget, ...]) -> frozenset[InputPath]:
        paths = (self._view.source(*_pair(path)) for each in widgets for path in each.paths)
        return frozenset(path for path in paths if path is not None)

    def takes(self, group: list[Candidate]) -> bool:
        """Whether a group is enabled."""
        paths = {candidate.path for candidate in group}
        role = group[0].role
        ours = any(candidate.enabled and candidate.role.enabled for candidate in group)
        if self._app:
            return not paths.isdisjoint(self._app) or (ours and role is SEED)
        if not paths.isdisjoint(self._shown):
            return not is_model_name(group[0].value)
        prepares = role.name in _SAMPLING & self._made and not _makes(self._view, group)
        return ours and not prepares


def _pair(path: InputPath) -> tuple[str, str]:
    return path.node, path.name


def _entry(view: GraphView, group: list[Candidate], names: _Names, enabled: bool) -> ProposedInput:
    first = _first(group)
    paths = tuple(candidate.path for candidate in group)
    texts = [str(path) for path in paths]
    nodes = tuple(dict.fromkeys(view.title(path.node) for path in paths))
    name = names.give(first)
    kind = first.name if first.role is SETTING else first.role.name
    definitions = [view.input_def(path) for path in paths]
    minimum, maximum = bounds(kind, first.value, [_place(view, path) for path in paths])
    spec = InputSpec(
        path=texts[0] if len(texts) == 1 else texts,
        description=_description(view, first, name),
        kind=first.kind,
        random=first.random,
        type=_type(first, definitions[0]),
        choices=_choices(first, definitions[0]),
        default=_default(first, [view.value(path) for path in paths], definitions),
        minimum=minimum,
        maximum=maximum,
    )
    return ProposedInput(
        name=name,
        spec=spec,
        enabled=enabled,
        reason=first.reason,
        paths=paths,
        value=first.value,
        definition=definitions[0],
        nodes=nodes,
    )


def _place(view: GraphView, path: InputPath) -> Place:
    return Place(view.class_of(path.node), view.input_def(path), tuple(_uses(view, path)))


def _uses(view: GraphView, path: InputPath) -> Iterator[InputDef]:
    """The numbers that a value node is linked to."""
    for user, name, _ in view.consumers[path.node] if path.name.lower() in VALUE_NAMES else ():
        known = view.input_def(InputPath(user, name))
        if known is not None and known.type in ("INT", "FLOAT"):
            yield known


def _description(view: GraphView, candidate: Candidate, name: str) -> str:
    """The description of a role; a text or file with a name of its own is described by that, a
    setting by its node's title."""
    role = candidate.role
    if role is SETTING:
        title = view.title(candidate.node)
        return "" if title == view.class_of(candidate.node) else title
    named = role.rank < SEED.rank and name.rstrip("_0123456789") != role.name
    return f"The {name.replace('_', ' ')}." if named else role.description


def _default(
    first: Candidate, values: list[JsonValue], definitions: list[InputDef | None]
) -> JsonValue:
    """The default, where the places do not agree on it: in their values, or in their types."""
    if first.kind or first.random:
        return None
    pairs = zip(values, definitions, strict=True)
    kinds = {type(value).__name__ if d is None else d.type for value, d in pairs}
    if len(kinds) > 1 and kinds & {"INT", "int"} and isinstance(first.value, (int, float)):
        return int(first.value)
    return None if all(value == first.value for value in values) else first.value


def _type(candidate: Candidate, definition: InputDef | None) -> ParameterType | None:
    """The type for a number that the graph has as an integer, when there is no definition."""
    whole = isinstance(candidate.value, int) and not isinstance(candidate.value, bool)
    if definition is None and candidate.role.type == "number" and whole:
        return "number"
    return None


def _choices(candidate: Candidate, definition: InputDef | None) -> list[str] | None:
    """A model file that is not in the catalogue becomes the only choice."""
    value = candidate.value
    if not isinstance(value, str) or not is_model_name(value):
        return None
    listed = definition.choices if definition is not None and definition.choices else ()
    return None if value in listed else [value]


def _notes(view: GraphView) -> Iterable[str]:
    if not view.outputs:
        yield "the graph has no known output node; add [outputs] by hand"
    if view.catalogue is not None:
        unknown = sorted({view.class_of(node) for node in view.graph} - set(view.catalogue))
        for class_type in unknown:
            yield (
                f"unknown node class {class_type!r}: not in the node catalogue, so its types are"
                " inferred from its values"
            )
    for node in view.outputs:
        if not _known_output(view, node):
            yield f"{view.title(node)!r} ({view.class_of(node)}) is an output node of unknown kind"


def _known_output(view: GraphView, node: str) -> bool:
    return output_of(view.class_of(node), view.inputs(node)) is not None
