"""Finds the nodes of a graph in a later export of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from comfysnap_schema.comfy import Graph, is_link, title_of


@dataclass(frozen=True)
class Matches:
    """Where the nodes of an old graph are in a new one."""

    nodes: Mapping[str, str]
    """Old id to new id, of the nodes that were found without doubt."""
    doubts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Old id to the reason why a node was not found, or may be another one."""


def match_nodes(old: Graph, new: Graph, known: Mapping[str, str] | None = None) -> Matches:
    """Find each node of ``old`` in ``new``: by id and class, unless its title and links say that
    another node took its place; else by title, links and values; else, for a class that is gone, by
    its place; else by id alone.

    Args:
        old: The earlier graph.
        new: The later one.
        known: Old id to new id, of nodes that need not be searched.
    """
    return _Matcher(old, new, known or {}).run()


class _Matcher:
    def __init__(self, old: Graph, new: Graph, known: Mapping[str, str]) -> None:
        self._old, self._new = _Side(old), _Side(new)
        self._found = dict(known)
        self._doubts: dict[str, str] = {}

    def run(self) -> Matches:
        old, new = self._old.graph, self._new.graph
        kept = [node for node in old if self._new.class_of(node) == self._old.class_of(node)]
        ids_count = 2 * len(kept) >= len(old)
        for node in kept if ids_count else ():
            if node not in self._found:
                self._by_id(node)
        while self._by_likeness() or self._by_place():
            pass
        for node in old:
            if node in self._found or node in self._doubts:
                continue
            if ids_count and node in new and node not in kept and node not in self._taken:
                self._found[node] = node
            else:
                self._doubts[node] = self._why(node)
        return Matches(self._found, self._doubts)

    @property
    def _taken(self) -> set[str]:
        return set(self._found.values())

    def _by_id(self, node: str) -> None:
        """Take the node of the same id; links that were exchanged make it another node."""
        by_links = self._like(node, links_only=True)
        if by_links in (None, node):
            self._found[node] = node
        elif self._titled(node) == by_links:
            self._found[node] = by_links
        else:
            self._doubts[node] = (
                f"node {node} is no longer linked as it was, and node {by_links} is: the two"
                f" {self._old.class_of(node)} nodes may have been exchanged"
            )

    def _by_likeness(self) -> bool:
        """Match nodes whose id says nothing; returns whether any was found."""
        before = len(self._found)
        for node in self._old.graph:
            if node in self._found or node in self._doubts:
                continue
            titled, alike = self._titled(node), self._like(node)
            if titled and alike and titled != alike:
                continue
            found = titled or alike
            if found is not None and found not in self._taken:
                self._found[node] = found
        return len(self._found) > before

    def _by_place(self) -> bool:
        """Match nodes of which another class took the place: the same links, and inputs of the same
        names for its values; returns whether any was found."""
        before = len(self._found)
        for node in self._old.graph:
            if node in self._found or node in self._doubts or self._peers(node):
                continue
            free = [each for each in self._new.graph if each not in self._taken]
            found = [each for each in free if self._is_in_place(node, each)]
            is_there = node in self._new.graph and node not in self._taken
            if len(found) == 1 and (not is_there or found == [node]):
                self._found[node] = found[0]
        return len(self._found) > before

    def _is_in_place(self, node: str, other: str) -> bool:
        users, theirs = self._old.users(node), self._new.users(other)
        moved = {(self._found.get(user), name, slot) for user, name, slot in users}
        inputs, now = self._old.graph[node]["inputs"], self._new.graph[other]["inputs"]
        sources = {
            name: (self._found.get(source), slot)
            for name, (source, slot) in self._old.sources(node).items()
        }
        values = inputs.keys() - sources.keys()
        return (
            moved <= set(theirs)
            and bool(users) == bool(theirs)
            and bool(users or sources)
            and sources.items() <= self._new.sources(other).items()
            and all(name in now and not is_link(now[name]) for name in values)
        )

    def _peers(self, node: str) -> list[str]:
        """Nodes of the same class in the new graph that are still free, and the node's own id."""
        class_type, taken = self._old.class_of(node), self._taken
        return [
            each
            for each in self._new.graph
            if self._new.class_of(each) == class_type and (each not in taken or each == node)
        ]

    def _rivals(self, node: str) -> list[str]:
        """Other nodes of the same class in the old graph that are not found yet."""
        class_type = self._old.class_of(node)
        return [
            each
            for each in self._old.graph
            if each != node and self._old.class_of(each) == class_type and each not in self._found
        ]

    def _titled(self, node: str) -> str | None:
        """The only node with a title that the old graph had only once."""
        title = title_of(self._old.graph, node)
        if any(title_of(self._old.graph, each) == title for each in self._rivals(node)):
            return None
        found = [each for each in self._peers(node) if title_of(self._new.graph, each) == title]
        return found[0] if len(found) == 1 else None

    def _like(self, node: str, *, links_only: bool = False) -> str | None:
        """The only node with the same links, or else the same values; the node's own id first."""
        rivals, peers = self._rivals(node), self._peers(node)
        for look in (_Side.far, _Side.near, *(() if links_only else (_Side.values,))):
            mark = look(self._old, node)
            found = [each for each in peers if look(self._new, each) == mark]
            if node in found and links_only:
                return node
            if len(found) == 1 and not any(look(self._old, each) == mark for each in rivals):
                return found[0]
        return None

    def _why(self, node: str) -> str:
        label = f"node {node} ({title_of(self._old.graph, node)})"
        peers = [each for each in self._peers(node) if each != node or each not in self._taken]
        if not peers:
            return f"{label} is gone"
        if len(peers) == 1:
            return f"{label} may be node {peers[0]}, whose title, links and values are others"
        class_type = self._old.class_of(node)
        return f"{label} may be one of several {class_type} nodes: {', '.join(peers)}"


class _Side:
    """A graph, and what its nodes are linked to."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._users: dict[str, list[tuple[str, str, int]]] = {}
        for node, entry in graph.items():
            for name, value in entry["inputs"].items():
                if isinstance(value, list) and is_link(value):
                    user = (node, name, int(str(value[1]).partition(".")[0]))
                    self._users.setdefault(str(value[0]), []).append(user)
        self._links = cache(self._links_within)

    def users(self, node: str) -> list[tuple[str, str, int]]:
        """What reads a node: node, input and slot."""
        return self._users.get(node, [])

    def sources(self, node: str) -> dict[str, tuple[str, str]]:
        """What a node reads, by its inputs: node and slot."""
        inputs = self.graph[node]["inputs"].items()
        return {
            name: (str(value[0]), str(value[1]))
            for name, value in inputs
            if isinstance(value, list) and is_link(value)
        }

    def class_of(self, node: str) -> str | None:
        return self.graph[node]["class_type"] if node in self.graph else None

    def far(self, node: str) -> object:
        """The links of a node and of its neighbours."""
        return self._links(node, 2)

    def near(self, node: str) -> object:
        """The links of a node."""
        return self._links(node, 1)

    def values(self, node: str) -> object:
        """The values in a node; one without values is like no other."""
        inputs = self.graph[node]["inputs"].items()
        return {name: value for name, value in inputs if not is_link(value)} or object()

    def _links_within(self, node: str, depth: int) -> object:
        return self._uses(node, depth), self._sources(node, depth)

    def _uses(self, node: str, depth: int) -> object:
        return frozenset(
            (self.class_of(user), name, slot, self._uses(user, depth - 1))
            for user, name, slot in (self._users.get(node, ()) if depth else ())
        )

    def _sources(self, node: str, depth: int) -> object:
        inputs = self.graph[node]["inputs"] if depth and node in self.graph else {}
        return frozenset(
            (name, self.class_of(source), str(value[1]), self._sources(source, depth - 1))
            for name, value in inputs.items()
            if isinstance(value, list) and is_link(value) and (source := str(value[0]))
        )
