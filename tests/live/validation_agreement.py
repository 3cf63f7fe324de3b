"""Compares comfysnap's validation with a real ComfyUI's on thousands of random graphs.

COMFYUI_PATH=... COMFYUI_PYTHON=... python -m tests.live.validation_agreement --count 5000
"""

import argparse
import copy
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comfysnap_schema.comfy.definitions import InputDef
from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.comfy.validation import Verdict, judge_graph
from tests.live.random_graphs import FILES, GraphMaker
from tests.live.real_comfyui import RealComfy

Place = tuple[str | None, str | None, str]
"""Node, input and code of one issue."""


@dataclass(frozen=True)
class Case:
    """What both said about one graph."""

    graph: Graph
    comfy: RealComfy
    verdict: Verdict
    theirs: dict[str, Any]

    @property
    def error(self) -> dict[str, Any]:
        """ComfyUI's error for the whole graph; empty when it accepts it."""
        return self.theirs["error"] or {}

    @property
    def our_places(self) -> set[Place]:
        """Our issues; a cycle counts for its node, as ComfyUI names no input."""
        return {
            (each.node, None if each.code == "dependency_cycle" else each.input, each.code)
            for each in self.verdict.issues
        }

    @property
    def their_places(self) -> set[Place]:
        return {
            (node, name, code)
            for node, errors in self.theirs["node_errors"].items()
            for code, name in errors
        }

    def codes_at(self, node: str | None) -> set[str]:
        """ComfyUI's codes for a node."""
        errors = self.theirs["node_errors"].get(node, ())
        return {code for code, _ in errors}

    def definition(self, place: Place) -> InputDef | None:
        """The definition of the input, if the class declares it."""
        node, name, _ = place
        if node is None or name is None:
            return None
        entry = self.graph[node]
        known = self.comfy.catalogue.get(entry["class_type"])
        return known.expand(entry["inputs"]).get(name) if known else None

    def own_checks(self, place: Place) -> list[str]:
        """The inputs that the node's class checks by itself."""
        node = place[0]
        return [] if node is None else self.comfy.own_checks.get(self.graph[node]["class_type"], [])

    def origins(self, node: str) -> set[str]:
        """The nodes that one depends on, itself included."""
        seen: set[str] = set()
        stack = [node]
        while stack:
            current = stack.pop()
            if current in self.graph and current not in seen:
                seen.add(current)
                values = self.graph[current]["inputs"].values()
                stack += [str(v[0]) for v in values if isinstance(v, list) and v]
        return seen

    def excepted(self) -> set[str]:
        """Nodes whose check ended in an exception, and those that may not have been reached."""
        ended = {
            node
            for node in self.theirs["node_errors"]
            if any(code.startswith("exception_during") for code in self.codes_at(node))
        }
        return {origin for node in ended for origin in self.origins(node)}


@dataclass(frozen=True)
class Difference:
    """A difference that is meant."""

    name: str
    reason: str
    explains: Callable[[Case, Place], bool]


def _first_only(case: Case, place: Place) -> bool:
    stops = case.error.get("type") in ("missing_node_type", "prompt_no_outputs")
    return stops and place in case.our_places


def _exception(case: Case, place: Place) -> bool:
    if place[2].startswith("exception_during"):
        return any(node == place[0] for node, _, _ in case.our_places)
    return place in case.our_places and place[0] in case.excepted()


def _cycle(case: Case, place: Place) -> bool:
    node, _, code = place
    if code != "dependency_cycle" or node is None:
        return False
    ours = {name for name, _, found in case.our_places if found == code}
    return any(
        name in case.origins(node) and (code in case.codes_at(name) or name in case.excepted())
        for name in ours
        if name is not None
    )


def _dynamic_choice(case: Case, place: Place) -> bool:
    definition = case.definition(place)
    if definition is None or place in case.their_places:
        return False
    return definition.dynamic is not None and definition.dynamic.kind == "combo"


def _own_check(case: Case, place: Place) -> bool:
    checks = case.own_checks(place)
    if place[2].startswith("exception_during"):
        return bool(checks)
    if place[2] in ("custom_validation_failed", "return_type_mismatch"):
        return bool(checks) if place[2].startswith("custom") else "input_types" in checks
    values = ("value_not_in_list", "value_smaller_than_min", "value_bigger_than_max")
    return place[2] in values and (place[1] in checks or "**" in checks)


def _tuple(case: Case, place: Place) -> bool:
    node, name, code = place
    if node is None or code != "value_not_in_list" or name is None:
        return False
    return (case.graph[node]["class_type"], name) in case.comfy.tuples


def _upload(case: Case, place: Place) -> bool:
    definition = case.definition(place)
    return place[2] == "value_not_in_list" and bool(definition and definition.upload)


DELIBERATE = (
    Difference(
        "only its first",
        "ComfyUI stops at the first unknown class, or when no output is left; we list every issue.",
        _first_only,
    ),
    Difference(
        "exception",
        "ComfyUI's check ends in an exception (a link to nowhere, a text compared with a number)"
        " and skips the rest of the node; we name the input, and go on.",
        _exception,
    ),
    Difference(
        "one issue a cycle",
        "ComfyUI gives every node of a cycle the same error; we give one to the link that closes"
        " it.",
        _cycle,
    ),
    Difference(
        "dynamic choice",
        "ComfyUI drops a dynamic combo that is missing or has an unknown choice, and fails when the"
        " node runs; newer releases refuse it, as we do.",
        _dynamic_choice,
    ),
    Difference(
        "own check",
        "A class may replace ComfyUI's check of an input by its own code, which /object_info hides"
        " and we do not run.",
        _own_check,
    ),
    Difference(
        "choices in a tuple",
        "ComfyUI does not check choices that a class wrote as a tuple; in /object_info they are a"
        " list like any other.",
        _tuple,
    ),
    Difference(
        "uploaded file",
        "Uploaded files belong to a job, so the files of the server that the catalogue came from do"
        " not count.",
        _upload,
    ),
)
"""Every difference that is meant, with its reason; there must be no other."""


@dataclass
class Tally:
    """The result of many comparisons."""

    graphs: int = 0
    accepted: int = 0
    agreeing: int = 0
    classes: set[str] = field(default_factory=set[str])
    kinds: Counter[str] = field(default_factory=Counter[str])
    codes: Counter[str] = field(default_factory=Counter[str])
    deliberate: Counter[str] = field(default_factory=Counter[str])
    others: list[str] = field(default_factory=list[str])

    def lines(self) -> Iterator[str]:
        """The report."""
        yield f"{self.graphs} graphs over {len(self.classes)} classes, {self.accepted} accepted"
        yield f"kinds: {dict(sorted(self.kinds.items()))}"
        yield f"ComfyUI's codes: {dict(sorted(self.codes.items()))}"
        yield f"{self.agreeing} agree in all of it"
        for difference in DELIBERATE:
            count = self.deliberate[difference.name]
            yield f"{count} differ by {difference.name!r}: {difference.reason}"
        yield f"{len(self.others)} other differences"
        yield from self.others


def compare(comfy: RealComfy, count: int, seed: int) -> Tally:
    """Compare the verdict, the codes of each node and the inputs that they name."""
    maker = GraphMaker(comfy.catalogue, seed)
    tally = Tally()
    for number in range(count):
        kind, graph = maker.graph(number)
        verdict = judge_graph(graph, comfy.catalogue, check_models=True)
        case = Case(graph, comfy, verdict, comfy.validate(copy.deepcopy(graph)))
        tally.graphs += 1
        tally.accepted += case.theirs["ok"]
        tally.kinds[kind] += 1
        tally.classes |= {node["class_type"] for node in graph.values()} & set(comfy.catalogue)
        tally.codes.update(code for _, _, code in case.their_places)
        if case.error:
            tally.codes[case.error["type"]] += 1
        names, others = differences(case)
        tally.deliberate.update(names)
        tally.agreeing += not names and not others
        tally.others += [f"{number} {kind}: {other}" for other in others]
    return tally


def differences(case: Case) -> tuple[set[str], list[str]]:
    """The names of the deliberate differences of one graph, and the others in words."""
    names: set[str] = set()
    others: list[str] = []
    explained: set[str] = set()
    ours, theirs = case.our_places, case.their_places
    for place in sorted(ours ^ theirs, key=str):
        if _whole_graph(case, place):
            continue
        name = next((each.name for each in DELIBERATE if each.explains(case, place)), None)
        if name is None:
            who = "only ours" if place in ours else "only ComfyUI's"
            others.append(f"{who}: {place}; {_node(case, place[0])}")
        else:
            names.add(name)
            explained |= {place[0]} if place[0] else set()
    return names, others + list(_verdicts(case, explained))


def _whole_graph(case: Case, place: Place) -> bool:
    """Whether the place is what ComfyUI's error for the whole graph says."""
    if case.error.get("type") != place[2]:
        return False
    return place[2] == "prompt_no_outputs" or case.error["details"] == f"Node ID '#{place[0]}'"


def _verdicts(case: Case, explained: set[str]) -> Iterator[str]:
    error = case.error.get("type")
    if error in ("missing_node_type", "prompt_no_outputs"):
        if error not in {code for _, _, code in case.our_places} or case.verdict.accepted:
            yield f"ComfyUI refuses it as {error}, we do not"
        return
    good = set(case.theirs["outputs"])
    for node, runs in case.verdict.outputs.items():
        if runs != (node in good) and not explained & case.origins(node):
            yield f"output {node}: we {runs}, ComfyUI {node in good}"


def _node(case: Case, node: str | None) -> str:
    shown = case.graph.get(node) if node is not None else None
    return f"{shown!s:.600}; theirs {case.theirs['node_errors'].get(node)}"


def main() -> int:
    """Print the counts; 1 when there is a difference that is not meant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="Graphs to compare.")
    parser.add_argument("--seed", type=int, default=1, help="Of the random graphs.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        comfy = RealComfy(Path(work), list(FILES))
        try:
            tally = compare(comfy, options.count, options.seed)
        finally:
            comfy.close()
    sys.stdout.writelines(f"{line}\n" for line in tally.lines())
    return bool(tally.others)


if __name__ == "__main__":
    sys.exit(main())
