"""Lists that a map may have: several files as one, and LoRAs. They are written commented out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from comfysnap_schema.comfy import MATCH_TYPE, InputPath
from comfysnap_schema.propose.names import unique
from comfysnap_schema.propose.proposal import ProposedInput
from comfysnap_schema.propose.view import GraphView
from comfysnap_schema.wire import Kind
from comfysnap_schema.workflow import InputSpec

_ANY: Final = frozenset({"*", MATCH_TYPE})
_PLURALS: Final = {Kind.IMAGE: "images", Kind.MASK: "masks", Kind.VIDEO: "videos"}


@dataclass(frozen=True)
class ProposedList:
    """One list, ready to be written as ``[inputs.name]``."""

    name: str
    spec: InputSpec
    reason: str


def proposed_lists(view: GraphView, inputs: Iterable[ProposedInput]) -> Iterator[ProposedList]:
    """The lists for a graph with a catalogue, which they need."""
    taken = {entry.name for entry in inputs}
    if view.catalogue is None:
        return
    files: dict[tuple[Kind, str, str], list[ProposedInput]] = {}
    for entry in inputs:
        kind, path = entry.spec.kind, entry.paths[0]
        if kind is not None and entry.enabled and len(entry.paths) == 1:
            files.setdefault((kind, view.class_of(path.node), path.name), []).append(entry)
    for (kind, *_), entries in files.items():
        if len(entries) > 1:
            name = unique(_PLURALS.get(kind, "files"), (), taken)
            taken.add(name)
            places = [str(entry.paths[0]) for entry in entries]
            names = ", ".join(entry.name for entry in entries)
            reason = f"one list in place of {names}, for callers who have fewer"
            yield ProposedList(name, InputSpec(each=places), reason)
    yield from _loras(view, taken)


def _loras(view: GraphView, taken: set[str]) -> Iterator[ProposedList]:
    """LoRAs behind the first loader of a model that makes the output."""
    painters = (node for node in view.order if node in view.painters)
    model = next((loader for node in painters for loader in _loaders(view, node, "MODEL")), None)
    if model is None:
        return
    clip = None
    if not _gives(view, model, "CLIP"):
        readers = (loader for node in view.order for loader in _loaders(view, node, "CLIP"))
        clips = set(readers)
        clip = clips.pop() if len(clips) == 1 else None
    spec = InputSpec(type="loras", after=model, clip_after=clip)
    reason = f"LoRAs that callers name, behind {view.title(model)!r}"
    yield ProposedList(unique("loras", (), taken), spec, reason)


def _loaders(view: GraphView, node: str, kind: str) -> Iterator[str]:
    """Where the MODEL or CLIP that a node reads is loaded, through patches and switches."""
    stack, seen = [node], {node}
    while stack:
        at = stack.pop()
        origins = list(_origins(view, at, kind, through_any=at != node))
        if not origins and at != node and _gives(view, at, kind):
            yield at
        stack += [origin for origin in origins if origin not in seen]
        seen.update(origins)


def _origins(view: GraphView, node: str, kind: str, *, through_any: bool) -> Iterator[str]:
    for name, origin, _ in view.links(node):
        known = view.input_def(InputPath(node, name))
        kinds = known.type.split(",") if known is not None else ()
        if kind in kinds or (through_any and not _ANY.isdisjoint(kinds)):
            yield origin


def _gives(view: GraphView, node: str, kind: str) -> bool:
    known = view.node_def(node)
    return known is not None and any(kind in output.type.split(",") for output in known.outputs)
