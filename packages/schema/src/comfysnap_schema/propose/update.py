"""Updates a workflow folder to a new export of its graph, keeping its map."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from comfysnap_schema.comfy import (
    CATALOGUE_FILE,
    Catalogue,
    Drawing,
    Graph,
    InputPath,
    read_graph,
    title_of,
)
from comfysnap_schema.propose.folder import OTHERS, others, write_drawing, write_sources
from comfysnap_schema.wire import SchemaError, WorkflowError
from comfysnap_schema.workflow import (
    DRAWING_FILE,
    GRAPH_FILE,
    LORA_CLASSES,
    PREPARE_FILE,
    SPEC_FILE,
    InputSpec,
    Matches,
    Workflow,
    WorkflowSpec,
    check_workflow,
    compare,
    match_nodes,
    read_spec,
)

_PATH = re.compile(r"""(?P<quote>["'])(?P<node>[^"'\n]+?)\.inputs\.(?P<name>[^"'\n]+)(?P=quote)""")
_COMMENTED_NODE = re.compile(r"""(?m)^(# (?:clip_)?after = ")([^"\n]+)(")""")


@dataclass(frozen=True)
class Update:
    """What an update does, or why it is not done."""

    changes: tuple[str, ...] = ()
    """Nodes that moved, were replaced, are new or gone, and defaults that changed."""
    callers: tuple[tuple[str, bool], ...] = ()
    """What callers notice, and whether it breaks them."""
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    """Why the update is not safe; empty: it is."""
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """The files that differ, by name."""

    def write(self, folder: Path) -> None:
        """Write the files; each is complete or unchanged."""
        for name, data in self.files.items():
            draft = folder / f".{name}.new"
            draft.write_bytes(data)
            draft.replace(folder / name)


def plan_update(
    folder: Path,
    graph: Graph,
    catalogue: Catalogue | None,
    drawing: Drawing | None = None,
    *,
    editor_workflow: Mapping[str, Any] | None = None,
    nodes: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
) -> Update:
    """Work out an update; writes nothing.

    Args:
        folder: A workflow folder that loads.
        graph: The new graph.
        catalogue: A new node catalogue. None: keeps the one in the folder.
        drawing: What the export says beside the graph.
        editor_workflow: The workflow as the editor draws it, for ``drawing.json``.
        nodes: Old node id to new one, where the update cannot know.
        drop: Inputs and outputs to remove, whose nodes are gone.

    Raises:
        SchemaError: The workflow does not load as it is.
        WorkflowError: ``unknown_node``, ``unknown_name``: ``nodes`` or ``drop`` name none.
    """
    old = Workflow.load(folder)
    before = read_graph(folder / GRAPH_FILE)
    spec = read_spec(folder / SPEC_FILE)
    _check_choices(folder, spec, before, graph, nodes or {}, drop)
    matches = match_nodes(before, graph, nodes)
    kept = _without(spec, drop)
    doubts = tuple(_doubts(kept, before, matches))
    changes = tuple(_node_changes(before, graph, matches, kept))
    if doubts:
        return Update(changes=changes, doubts=doubts)
    is_drawn = editor_workflow is not None or graph == before
    text = _map_text(folder / SPEC_FILE, spec, matches, drop, graph)
    with tempfile.TemporaryDirectory(prefix="comfysnap-") as parent:
        draft = Path(parent) / folder.name
        shutil.copytree(folder, draft)
        (draft / SPEC_FILE).write_text(text, encoding="utf-8", newline="")
        if graph != before:
            content = json.dumps(graph, indent=2, ensure_ascii=False) + "\n"
            (draft / GRAPH_FILE).write_text(content, encoding="utf-8")
        if catalogue is not None:
            catalogue.slim(_classes(graph, kept)).save(draft / CATALOGUE_FILE)
        write_sources(draft, drawing or Drawing())
        write_drawing(draft, editor_workflow)
        try:
            new = Workflow.load(draft)
            checked = check_workflow(new)
        except SchemaError as error:
            place = f"{error.field}: " if getattr(error, "field", None) else ""
            return Update(changes=changes, doubts=(f"{place}{error.message}",))
        return Update(
            changes=(*changes, *_default_changes(old, new)),
            callers=tuple((f"{c.field}: {c.message}", c.breaking)
                          for c in compare(old.contract, new.contract)),
            notes=tuple(_notes(folder, matches, (*checked.notes, *checked.issues), is_drawn)),
            files=dict(_differing(folder, draft)),
        )  # fmt: skip


def _classes(graph: Graph, spec: WorkflowSpec) -> Iterator[str]:
    """The node classes that a workflow may send to ComfyUI."""
    yield from (node["class_type"] for node in graph.values())
    if any(entry.type == "loras" for entry in spec.inputs.values()):
        yield from LORA_CLASSES


def _check_choices(
    folder: Path,
    spec: WorkflowSpec,
    before: Graph,
    graph: Graph,
    nodes: Mapping[str, str],
    drop: Iterable[str],
) -> None:
    file = str(folder / SPEC_FILE)
    for name in drop:
        if name not in spec.inputs and name not in spec.outputs:
            known = ", ".join((*spec.inputs, *spec.outputs))
            message = f"unknown input or output {name!r}; available: {known}"
            raise WorkflowError("unknown_name", message, file=file)
    for one, other in nodes.items():
        for node, where, known in ((one, "old", before), (other, "new", graph)):
            if node not in known:
                message = f"the {where} graph has no node {node!r}"
                raise WorkflowError("unknown_node", message, file=file)


def _without(spec: WorkflowSpec, drop: Sequence[str]) -> WorkflowSpec:
    inputs = {name: entry for name, entry in spec.inputs.items() if name not in drop}
    outputs = {name: entry for name, entry in spec.outputs.items() if name not in drop}
    return spec.model_copy(update={"inputs": inputs, "outputs": outputs})


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _places(entry: InputSpec) -> list[str]:
    return [*_listed(entry.path), *(entry.each or ())]


def _nodes(entry: InputSpec) -> list[str]:
    return [*_listed(entry.bypass), *filter(None, (entry.after, entry.clip_after))]


def _uses(spec: WorkflowSpec) -> Iterator[tuple[str, str]]:
    """Each entry of the map with a node that it names."""
    for name, entry in spec.inputs.items():
        for text in _places(entry):
            yield f"inputs.{name}", InputPath.parse(text).node
        for node in _nodes(entry):
            yield f"inputs.{name}", node
    for name, output in spec.outputs.items():
        yield f"outputs.{name}", output.node
    for text in spec.constants:
        yield f"constants.{text}", InputPath.parse(text).node


def _remains(entry: InputSpec, matches: Matches) -> bool:
    """Whether an input with several places keeps one of them."""
    return any(InputPath.parse(text).node in matches.nodes for text in _places(entry))


def _is_gone(node: str, matches: Matches) -> bool:
    return matches.doubts.get(node, "").endswith(" is gone")


def _doubts(spec: WorkflowSpec, before: Graph, matches: Matches) -> Iterator[str]:
    for place, node in dict.fromkeys(_uses(spec)):
        reason = matches.doubts.get(node)
        entry = spec.inputs.get(place.removeprefix("inputs."))
        paths = [InputPath.parse(text).node for text in _places(entry)] if entry else []
        partly = (
            entry is not None
            and node in paths
            and node not in _nodes(entry)
            and _remains(entry, matches)
        )
        if reason and not (partly and _is_gone(node, matches)):
            yield f"{place}: {reason}"


def _node_changes(
    before: Graph, graph: Graph, matches: Matches, spec: WorkflowSpec
) -> Iterator[str]:
    used: dict[str, list[str]] = {}
    for place, node in dict.fromkeys(_uses(spec)):
        used.setdefault(node, []).append(place)
    for old, new in matches.nodes.items():
        places = f", for {', '.join(used[old])}" if old in used else ""
        if old != new:
            yield f"moved: node {old} is now {new} ({title_of(graph, new)}){places}"
        was, now = before[old]["class_type"], graph[new]["class_type"]
        if was != now:
            yield f"replaced: node {new} was {was}, is now {now}{places}"
    for node in graph.keys() - set(matches.nodes.values()):
        yield f"new: node {node} ({title_of(graph, node)})"
    for node in matches.doubts:
        if _is_gone(node, matches):
            yield f"gone: node {node} ({title_of(before, node)})"


def _map_text(
    file: Path, spec: WorkflowSpec, matches: Matches, drop: Sequence[str], graph: Graph
) -> str:
    """The text of the map with the new ids; everything else stays, comments included."""
    import tomlkit

    document = tomlkit.parse(file.read_bytes().decode())
    data = cast("dict[str, Any]", document)
    for section in ("inputs", "outputs"):
        for name in set(drop) & set(data.get(section, {})):
            del data[section][name]
    inputs, outputs = data.get("inputs", {}), data.get("outputs", {})
    for name in set(inputs) & set(spec.inputs):
        _move_input(inputs[name], spec.inputs[name], matches)
    for name in set(outputs) & set(spec.outputs):
        node = spec.outputs[name].node
        if matches.nodes[node] != node:
            outputs[name]["node"] = matches.nodes[node]

    def moved(found: re.Match[str]) -> str:
        node = matches.nodes.get(found["node"], found["node"])
        return f"{found['quote']}{node}.inputs.{found['name']}{found['quote']}"

    text = _PATH.sub(moved, tomlkit.dumps(document))
    text = _COMMENTED_NODE.sub(lambda f: f[1] + matches.nodes.get(f[2], f[2]) + f[3], text)
    return _with_others(text, graph, {*spec.inputs} - {*drop})


def _move_input(table: Any, entry: InputSpec, matches: Matches) -> None:
    """Remove places that are gone, and move nodes; paths are moved in the text."""
    paths = _places(entry)
    left = [text for text in paths if InputPath.parse(text).node in matches.nodes]
    if len(left) < len(paths) and entry.each is not None:
        table["each"] = left
    elif len(left) < len(paths):
        table["path"] = left[0] if len(left) == 1 else left
    for key in ("after", "clip_after"):
        node = getattr(entry, key)
        if node is not None and matches.nodes[node] != node:
            table[key] = matches.nodes[node]
    bypass = [matches.nodes[node] for node in _listed(entry.bypass)]
    if bypass != _listed(entry.bypass):
        table["bypass"] = bypass[0] if isinstance(entry.bypass, str) else bypass


def _with_others(text: str, graph: Graph, names: set[str]) -> str:
    """Replace the list of the other values, if the map still has one."""
    head, mark, rest = text.partition(OTHERS)
    if not mark:
        return text
    lines = rest.splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if not line.startswith("# ")), len(lines))
    kept = head + "".join(lines[end:])
    offered = {InputPath(found["node"], found["name"]) for found in _PATH.finditer(kept)}
    disabled = set(re.findall(r"(?m)^# \[inputs\.(\w+)\]", kept))
    fresh = "".join(others(graph, offered, names | disabled))
    return head + fresh + "".join(lines[end:])


def _default_changes(old: Workflow, new: Workflow) -> Iterator[str]:
    for name, parameter in new.parameters.items():
        before = old.parameters.get(name)
        if before is not None and not parameter.random and before.default != parameter.default:
            yield f"default: {name} was {before.default!r}, is now {parameter.default!r}"


def _notes(folder: Path, matches: Matches, checked: Iterable[str], is_drawn: bool) -> Iterator[str]:
    yield from checked
    moved = any(one != other for one, other in matches.nodes.items())
    if moved and (folder / PREPARE_FILE).is_file():
        yield f"{PREPARE_FILE} is not changed; if it names node ids, adapt it"
    if not is_drawn and (folder / DRAWING_FILE).is_file():
        yield f"{DRAWING_FILE} is of the earlier graph; an export in UI format renews it"


def _differing(folder: Path, draft: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(draft.iterdir()):
        there = folder / path.name
        if path.is_file() and (not there.is_file() or there.read_bytes() != path.read_bytes()):
            yield path.name, path.read_bytes()
