"""Proposes the input map of a graph: what a person would have written."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.comfy import Catalogue, Graph, InputDef, InputPath, is_model_name
from comfysnap_schema.propose.candidates import candidates
from comfysnap_schema.propose.names import slug, telling, unique
from comfysnap_schema.propose.outputs import OutputRole, output_of
from comfysnap_schema.propose.roles import LAST_FILE_RANK, Candidate, Role
from comfysnap_schema.propose.view import GraphView
from comfysnap_schema.wire import Kind
from comfysnap_schema.workflow import InputSpec, OutputSpec, ParameterType, WorkflowSpec


@dataclass(frozen=True, kw_only=True)
class ProposedInput:
    """One parameter, ready to be written as ``[inputs.name]``."""

    name: str
    spec: InputSpec
    """Only what the map has to say; the rest comes from the graph and the catalogue."""
    on: bool
    """False: write it commented out, for a person to switch on."""
    reason: str
    """Why it is there, for the comment above the entry."""
    paths: tuple[InputPath, ...]
    value: JsonValue
    """What the graph says now."""
    definition: InputDef | None
    """What the catalogue says of the first path."""
    nodes: tuple[str, ...]
    """Titles of the nodes, for people."""


@dataclass(frozen=True, kw_only=True)
class ProposedOutput:
    """One output, ready to be written as ``[outputs.name]``."""

    name: str
    spec: OutputSpec
    on: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A map that fits the graph as it is.

    ``notes`` says what a person should look at: classes the catalogue does not know, no output.
    """

    name: str
    inputs: tuple[ProposedInput, ...]
    outputs: tuple[ProposedOutput, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def spec(self) -> WorkflowSpec:
        """The map with everything that is on."""
        return WorkflowSpec(
            name=self.name,
            inputs={entry.name: entry.spec for entry in self.inputs if entry.on},
            outputs={entry.name: entry.spec for entry in self.outputs if entry.on},
        )


class _Names:
    """The names given so far."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._bases: set[tuple[str, str]] = set()

    def give(self, base: str, candidate: Candidate) -> str:
        """A title tells nodes apart, not two inputs of one node."""
        same_node = (base, candidate.node) in self._bases
        name = unique(base, () if same_node else candidate.hints, self._taken, raw=candidate.raw)
        self._bases.add((base, candidate.node))
        self._taken.add(name)
        return name


def propose(graph: Graph, catalogue: Catalogue | None = None, *, name: str) -> Proposal:
    """Propose a map.

    Args:
        graph: In API format; never changed.
        catalogue: What the server's ``/object_info`` said; without one, types and roles come from
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
    for group in sorted(ordered, key=lambda group: not _is_on(group)):
        found.append(_entry(view, group, names))
    return tuple(found)


def _rank(group: list[Candidate]) -> tuple[int, bool]:
    """Roles in their order; what the node itself calls so has the first claim on the name."""
    role = group[0].role
    return role.rank, group[0].raw not in ("", role.name)


def _key(candidate: Candidate) -> tuple[object, ...]:
    """Candidates with one key are one parameter: the same role and the same value now."""
    name = candidate.name or candidate.role.name
    if candidate.kind is not None:
        return name, candidate.path
    return name, type(candidate.value) is bool, candidate.value


def _is_on(group: list[Candidate]) -> bool:
    return any(candidate.on and candidate.role.on for candidate in group)


def _entry(view: GraphView, group: list[Candidate], names: _Names) -> ProposedInput:
    first = next((each for each in group if each.on), group[0])
    paths = tuple(candidate.path for candidate in group)
    definition = view.input_def(paths[0])
    texts = [str(path) for path in paths]
    nodes = tuple(dict.fromkeys(view.title(path.node) for path in paths))
    on = _is_on(group)
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
        on=on,
        reason=first.reason,
        paths=paths,
        value=first.value,
        definition=definition,
        nodes=nodes,
    )


def _description(role: Role, name: str) -> str:
    """A text or file of its own name is what the name says."""
    named = role.rank <= LAST_FILE_RANK and name.rstrip("_0123456789") != role.name
    return f"The {name.replace('_', ' ')}." if named else role.description


def _type(candidate: Candidate, definition: InputDef | None) -> ParameterType | None:
    """A number that the graph happens to write without a point, when nothing else tells."""
    whole = isinstance(candidate.value, int) and not isinstance(candidate.value, bool)
    if definition is None and candidate.role.type == "number" and whole:
        return "number"
    return None


def _choices(candidate: Candidate, definition: InputDef | None) -> list[str] | None:
    """A model file that the catalogue does not list is offered as the one choice."""
    value = candidate.value
    if not isinstance(value, str) or not is_model_name(value):
        return None
    listed = definition.choices if definition is not None and definition.choices else ()
    return None if value in listed else [value]


_OUTPUT_ORDER: Final = (
    Kind.IMAGE, Kind.ANIMATION, Kind.VIDEO, Kind.AUDIO, Kind.MODEL_3D, Kind.TEXT, Kind.FILE,
)  # fmt: skip


def _outputs(view: GraphView) -> tuple[ProposedOutput, ...]:
    roles: dict[str, OutputRole] = {}
    for node in view.outputs:
        role = output_of(view.class_of(node), view.inputs(node))
        if role is not None:
            roles[node] = role
    kept = any(not role.preview for role in roles.values())
    found: list[ProposedOutput] = []
    ordered = sorted(roles, key=lambda node: _OUTPUT_ORDER.index(roles[node].kind))
    for node in sorted(ordered, key=lambda node: roles[node].preview and kept):
        role = roles[node]
        on = not (role.preview and kept)
        title = telling(view.title(node), view.class_of(node))
        prefix = slug(str(view.inputs(node).get("filename_prefix", "")).rsplit("/", 1)[-1])
        hints = [title, slug(prefix.removeprefix("comfyui"))]
        found.append(
            ProposedOutput(
                name=unique(role.name, hints, {entry.name for entry in found}),
                spec=OutputSpec(node=node, kind=role.kind, many=role.many),
                on=on,
                reason=_output_reason(view, node, role, on),
            )
        )
    return tuple(found)


def _output_reason(view: GraphView, node: str, role: OutputRole, on: bool) -> str:
    made = f"what {view.title(node)!r} ({view.class_of(node)}) makes"
    if on:
        return made
    return f"{made}: a preview, while other nodes save" if role.preview else made


def _notes(view: GraphView) -> Iterable[str]:
    if not view.outputs:
        yield "no node is known to save or show a result; add [outputs] by hand"
    if view.catalogue is not None:
        unknown = sorted({view.class_of(node) for node in view.graph} - set(view.catalogue))
        for class_type in unknown:
            yield f"the catalogue does not know {class_type!r}; its types come from its values"
    silent = [node for node in view.outputs if not _known_output(view, node)]
    for node in silent:
        yield f"{view.title(node)!r} ({view.class_of(node)}) is an output node of unknown kind"


def _known_output(view: GraphView, node: str) -> bool:
    return output_of(view.class_of(node), view.inputs(node)) is not None
