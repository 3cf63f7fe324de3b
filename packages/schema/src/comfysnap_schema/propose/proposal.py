"""Proposes an input map for a graph, as close as possible to one written by hand."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from comfysnap_schema.comfy import Catalogue, Graph, InputDef, InputPath, is_model_name
from comfysnap_schema.propose.candidates import candidates
from comfysnap_schema.propose.names import OutputRole, distinctive_words, output_of, slug, unique
from comfysnap_schema.propose.roles import SEED, Candidate, Role
from comfysnap_schema.propose.view import GraphView
from comfysnap_schema.wire import KINDS
from comfysnap_schema.workflow import InputSpec, OutputSpec, ParameterType, WorkflowSpec


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
class ProposedOutput:
    """One output, ready to be written as ``[outputs.name]``."""

    name: str
    spec: OutputSpec
    enabled: bool
    reason: str


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

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._bases: set[tuple[str, str]] = set()

    def give(self, base: str, candidate: Candidate) -> str:
        """Pick a unique name; titles distinguish nodes, but not two inputs of one node."""
        same_node = (base, candidate.node) in self._bases
        name = unique(base, () if same_node else candidate.hints, self._taken, raw=candidate.raw)
        self._bases.add((base, candidate.node))
        self._taken.add(name)
        return name


def propose(graph: Graph, catalogue: Catalogue | None = None, *, name: str) -> Proposal:
    """Propose a map.

    Args:
        graph: In API format; never changed.
        catalogue: The server's node catalogue; without one, types and roles are inferred from
            values and names.
        name: The workflow's name.
    """
    view = GraphView(graph, catalogue)
    return Proposal(
        name=name,
        inputs=_inputs(view),
        outputs=_outputs(view),
        notes=tuple(_notes(view)),
    )


def _inputs(view: GraphView) -> tuple[ProposedInput, ...]:
    groups: dict[tuple[object, ...], list[Candidate]] = {}
    seen: set[InputPath] = set()
    for candidate in candidates(view):
        if candidate.path not in seen:
            seen.add(candidate.path)
            groups.setdefault(_key(candidate), []).append(candidate)
    found: list[ProposedInput] = []
    names = _Names()
    ordered = sorted(groups.values(), key=_rank)
    for group in sorted(ordered, key=lambda group: not _is_enabled(group)):
        found.append(_entry(view, group, names))
    return tuple(found)


def _rank(group: list[Candidate]) -> tuple[int, bool]:
    """Roles in their order; an input of the role's own name takes precedence for that name."""
    role = group[0].role
    return role.rank, group[0].raw not in ("", role.name)


def _key(candidate: Candidate) -> tuple[object, ...]:
    """Candidates with equal keys become one parameter: same role, same current value."""
    name = candidate.name or candidate.role.name
    if candidate.kind is not None:
        return name, candidate.path
    return name, type(candidate.value) is bool, candidate.value


def _is_enabled(group: list[Candidate]) -> bool:
    return any(candidate.enabled and candidate.role.enabled for candidate in group)


def _entry(view: GraphView, group: list[Candidate], names: _Names) -> ProposedInput:
    first = next((each for each in group if each.enabled), group[0])
    paths = tuple(candidate.path for candidate in group)
    definition = view.input_def(paths[0])
    texts = [str(path) for path in paths]
    nodes = tuple(dict.fromkeys(view.title(path.node) for path in paths))
    enabled = _is_enabled(group)
    name = names.give(slug(first.name) or first.role.name, first)
    spec = InputSpec(
        path=texts[0] if len(texts) == 1 else texts,
        description=_description(first.role, name),
        kind=first.kind,
        random=first.random,
        type=_type(first, definition),
        choices=_choices(first, definition),
    )
    return ProposedInput(
        name=name,
        spec=spec,
        enabled=enabled,
        reason=first.reason,
        paths=paths,
        value=first.value,
        definition=definition,
        nodes=nodes,
    )


def _description(role: Role, name: str) -> str:
    """The description of a role; a text or file with a name of its own is described by that."""
    named = role.rank < SEED.rank and name.rstrip("_0123456789") != role.name
    return f"The {name.replace('_', ' ')}." if named else role.description


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


def _outputs(view: GraphView) -> tuple[ProposedOutput, ...]:
    roles: dict[str, OutputRole] = {}
    for node in view.outputs:
        role = output_of(view.class_of(node), view.inputs(node))
        if role is not None:
            roles[node] = role
    kept = any(not role.preview for role in roles.values())
    found: list[ProposedOutput] = []
    ordered = sorted(roles, key=lambda node: [*KINDS].index(roles[node].kind))
    for node in sorted(ordered, key=lambda node: roles[node].preview and kept):
        role = roles[node]
        enabled = not (role.preview and kept)
        title = distinctive_words(view.title(node), view.class_of(node))
        prefix = slug(str(view.inputs(node).get("filename_prefix", "")).rsplit("/", 1)[-1])
        hints = [title, slug(prefix.removeprefix("comfyui"))]
        found.append(
            ProposedOutput(
                name=unique(role.name, hints, {entry.name for entry in found}),
                spec=OutputSpec(node=node, kind=role.kind, many=role.many),
                enabled=enabled,
                reason=_output_reason(view, node, role, enabled),
            )
        )
    return tuple(found)


def _output_reason(view: GraphView, node: str, role: OutputRole, enabled: bool) -> str:
    made = f"the output of {view.title(node)!r} ({view.class_of(node)})"
    if enabled:
        return made
    return f"{made}; a preview, while other nodes save files" if role.preview else made


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
