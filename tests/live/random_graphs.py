"""Random graphs over the classes of a catalogue: valid ones, and ones broken in many ways."""

import random
from collections.abc import Callable
from typing import Any

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.definitions import InputDef
from comfysnap_schema.comfy.graph import Graph, Node
from comfysnap_schema.comfy.validation import fits

FILES = ("a.safetensors", "picture.png", "sound.wav", "film.mp4", "model.glb")
"""Names that every folder of the server holds."""
_DEPTH = 6
_WRONG: tuple[Any, ...] = (
    None, "", "abc", "12", " 7 ", "1e3", "0x10", "1_000", 0, -1, 1.5, 2**70, -1e300, True, False,
    {}, {"a": 1}, {"__value__": 3}, {"__value__": "x"}, {"__value__": ["x"]}, {"__value__": None},
    {"__type__": "INT", "__value__": []}, float("nan"), float("inf"), -float("inf"), [], ["1"],
    ["1", 0, 0], [["1", 0]], ["nowhere", 0], [1, 0], ["1", "0"], ["1", True], ["1", 0.0],
)  # fmt: skip


class GraphMaker:
    """Makes graphs of one catalogue; the same seed makes the same graphs."""

    def __init__(self, catalogue: Catalogue, seed: int) -> None:
        self.catalogue = catalogue
        self.chance = random.Random(seed)
        self._makers: dict[str, list[tuple[str, int]]] = {}
        self._costs = self._all_costs()
        self.targets = sorted(catalogue)
        self._odd = [name for name in self.targets if name.startswith("Odd")]

    def graph(self, number: int) -> tuple[str, Graph]:
        """The kind and the graph of this number; the classes come in turn, odd ones more often."""
        target = self.targets[number % len(self.targets)]
        if self._odd and number % 8 == 0:
            target = self.chance.choice(self._odd)
        graph: Graph = {}
        node = self._add(graph, target, _DEPTH)
        self._connect(graph, node)
        kind = self.chance.choice(list(BREAKERS))
        for _ in range(self.chance.choice((1, 1, 1, 2, 3))):
            BREAKERS[kind](self, graph)
        return kind, graph

    def _connect(self, graph: Graph, node: str) -> None:
        """Let an output depend on the node, if it is none; sometimes several."""
        known = self.catalogue[graph[node]["class_type"]]
        if known.outputs and (not known.output_node or self.chance.random() < 0.2):
            for _ in range(self.chance.choice((1, 1, 1, 2))):
                slot = self.chance.randrange(len(known.outputs))
                self._put(graph, "PreviewAny", {"source": [node, slot]})

    def _put(self, graph: Graph, class_type: str, inputs: dict[str, Any]) -> str:
        node = self.chance.choice(("{}", "{}", "5:{}", "n.{}")).format(len(graph) + 1)
        graph[node] = {"class_type": class_type, "inputs": inputs}
        return node

    def _add(self, graph: Graph, class_type: str, depth: int) -> str:
        """Add a node with good inputs, and the nodes that it needs."""
        known = self.catalogue[class_type]
        inputs: dict[str, Any] = {}
        while fresh := [d for name, d in known.expand(inputs).items() if name not in inputs]:
            wanted = [d for d in fresh if d.required or (depth > 2 and self.chance.random() < 0.3)]
            for definition in wanted:
                inputs[definition.name] = self._good(graph, definition, depth)
            if not any(definition.dynamic for definition in wanted):
                break
        return self._put(graph, class_type, inputs)

    def _good(self, graph: Graph, definition: InputDef, depth: int) -> Any:
        chance = self.chance
        if definition.choices:
            picked = chance.choice(definition.choices)
            return {"__value__": [picked]} if definition.multiselect else picked
        if definition.choices is not None or definition.upload is not None:
            return chance.choice(FILES)
        plain = {"STRING": "words", "BOOLEAN": True, "COMBO": "anything"}.get(definition.type)
        if plain is not None and not definition.force_input:
            return plain
        if definition.type in ("INT", "FLOAT") and not definition.force_input:
            return self._number(definition)
        makers = self._makers_of(definition)
        if not makers:
            return {"drawn": "by a widget"}
        cheapest = min(self._costs[name] for name, _ in makers)
        near = [m for m in makers if self._costs[m[0]] <= cheapest + (2 if depth > 3 else 0)]
        name, slot = chance.choice(near if depth > 0 else near[:1])
        reuse = [node for node in graph if graph[node]["class_type"] == name]
        if reuse and chance.random() < 0.3:
            return [chance.choice(reuse), slot]
        if depth < -_DEPTH:
            return [next(iter(graph), "nowhere"), 0]
        return [self._add(graph, name, depth - 1), slot]

    def _number(self, definition: InputDef) -> int | float:
        low = -5 if definition.minimum in (None, -float("inf")) else definition.minimum or 0
        high = low + 9 if definition.maximum in (None, float("inf")) else definition.maximum or 0
        picked = self.chance.choice((low, high, min(low + 1, high)))
        return float(picked) if definition.type == "FLOAT" else int(picked)

    def _makers_of(self, definition: InputDef) -> list[tuple[str, int]]:
        """Class and output slot of everything that fits, but for those that fit anything."""
        key = f"{definition.type} {definition.choices_in_type and definition.choices}"
        if key not in self._makers:
            self._makers[key] = [
                (name, slot)
                for name in sorted(self.catalogue)
                for slot, output in enumerate(self.catalogue[name].outputs)
                if output.type not in ("*", "COMFY_MATCHTYPE_V3") and fits(output, definition)
            ]
        return self._makers[key]

    def _all_costs(self) -> dict[str, int]:
        """How many nodes each class needs at least, roughly."""
        costs = dict.fromkeys(self.catalogue, 99)
        by_type: dict[str, int] = {}
        for _ in range(8):
            for name in costs:
                known = self.catalogue[name]
                links = [d for d in known.expand({}).values() if d.required and not d.is_widget]
                cost = 1 + sum(by_type.get(d.type.split(",")[0], 50) for d in links)
                costs[name] = min(costs[name], cost)
                for output in known.outputs:
                    by_type[output.type] = min(by_type.get(output.type, 99), costs[name])
        return costs

    def place(
        self, graph: Graph, suits: Callable[[InputDef, Any], bool]
    ) -> tuple[Node, str, InputDef] | None:
        """A random input that is set and suits."""
        found = [
            (node, name, definition)
            for node in graph.values()
            if (known := self.catalogue.get(node["class_type"]))
            for name, definition in known.expand(node["inputs"]).items()
            if name in node["inputs"] and suits(definition, node["inputs"][name])
        ]
        return self.chance.choice(found) if found else None

    def change(
        self,
        graph: Graph,
        suits: Callable[[InputDef, Any], bool],
        value: Callable[[InputDef], Any],
    ) -> None:
        """Set an input that suits to what a function makes of its definition."""
        if place := self.place(graph, suits):
            node, name, definition = place
            node["inputs"][name] = value(definition)

    def wrong(self, _: InputDef) -> Any:
        """A value of a wrong type, at random."""
        return self.chance.choice(_WRONG)


def _good(_: GraphMaker, __: Graph) -> None:
    """Leave it as it is."""


def _any_input(_: InputDef, __: Any) -> bool:
    return True


def _wrong_value(maker: GraphMaker, graph: Graph) -> None:
    maker.change(graph, _any_input, maker.wrong)


def _wrong_number(maker: GraphMaker, graph: Graph) -> None:
    numbers = ("INT", "FLOAT")
    maker.change(graph, lambda d, _: d.type in numbers, maker.wrong)


def _out_of_range(maker: GraphMaker, graph: Graph) -> None:
    step = maker.chance.choice((1, 0.5, 1e9))
    ends: list[Callable[[InputDef], Any]] = [
        lambda d: d.minimum if d.minimum is None else d.minimum - step,
        lambda d: d.maximum if d.maximum is None else d.maximum + step,
        lambda d: d.minimum,
        lambda d: str(d.maximum),
    ]
    end = maker.chance.choice(ends)
    maker.change(graph, lambda d, v: not isinstance(v, list) and end(d) is not None, end)


def _missing(maker: GraphMaker, graph: Graph) -> None:
    if place := maker.place(graph, lambda d, _: d.required):
        del place[0]["inputs"][place[1]]


def _surplus(maker: GraphMaker, graph: Graph) -> None:
    node = maker.chance.choice(list(graph.values()))
    name = maker.chance.choice(("is_changed", "unique_id", "prompt", "a.b", "", "upload"))
    node["inputs"][name] = maker.chance.choice(_WRONG)


def _wrong_choice(maker: GraphMaker, graph: Graph) -> None:
    values = ("gone", "A.SAFETENSORS", 0, 1, True, "1", 1.0, *_WRONG)
    maker.change(graph, lambda d, _: d.type == "COMBO", lambda _: maker.chance.choice(values))


def _wrong_link(maker: GraphMaker, graph: Graph) -> None:
    """A link to an output at random, and to no output at times."""
    origin = maker.chance.choice(list(graph))
    known = maker.catalogue.get(graph[origin]["class_type"])
    count = len(known.outputs) if known else 1
    slot = maker.chance.choice([*range(count), *range(count), *range(-count - 1, count + 1)])
    maker.change(graph, _any_input, lambda _: [origin, slot])


def _wrong_dynamic(maker: GraphMaker, graph: Graph) -> None:
    """Another choice of a dynamic combo, or none; inputs with odd names below dynamic ones."""
    if maker.chance.random() < 0.5:
        options: list[Any] = ["gone", None, 0, {"__value__": "gone"}, ["1", 0]]
        maker.change(
            graph,
            lambda d, _: d.dynamic is not None,
            lambda d: maker.chance.choice([*(d.choices or ()), *options]),
        )
    elif place := maker.place(graph, lambda d, _: "." in d.name or d.dynamic is not None):
        node, name, _ = place
        if maker.chance.random() < 0.5:
            del node["inputs"][name]
        else:
            stem = name.rstrip("0123456789")
            node["inputs"][f"{stem}{maker.chance.randrange(120)}"] = maker.chance.choice(_WRONG)


def _unknown_class(maker: GraphMaker, graph: Graph) -> None:
    name = maker.chance.choice(("NoSuchNode", "", "ksampler", "Note"))
    maker.chance.choice(list(graph.values()))["class_type"] = name


def _other_class(maker: GraphMaker, graph: Graph) -> None:
    node = maker.chance.choice(list(graph.values()))
    node["class_type"] = maker.chance.choice(maker.targets)


def _cycle(maker: GraphMaker, graph: Graph) -> None:
    """A link against the direction of the others."""
    origin = maker.chance.choice(list(graph)[-3:])
    known = maker.catalogue.get(graph[origin]["class_type"])
    slots = list(enumerate(known.outputs)) if known else []
    if slots:
        slot, output = maker.chance.choice(slots)
        maker.change(graph, lambda d, _: fits(output, d), lambda _: [origin, slot])


def _no_outputs(maker: GraphMaker, graph: Graph) -> None:
    for node in list(graph):
        known = maker.catalogue.get(graph[node]["class_type"])
        if known and known.output_node and len(graph) > 1:
            del graph[node]


def _mixed(maker: GraphMaker, graph: Graph) -> None:
    others = [breaker for name, breaker in BREAKERS.items() if name != "mixed"]
    maker.chance.choice(others)(maker, graph)


BREAKERS: dict[str, Callable[[GraphMaker, Graph], None]] = {
    "good": _good,
    "wrong value": _wrong_value,
    "wrong number": _wrong_number,
    "out of range": _out_of_range,
    "missing input": _missing,
    "surplus input": _surplus,
    "wrong choice": _wrong_choice,
    "wrong link": _wrong_link,
    "dynamic inputs": _wrong_dynamic,
    "unknown class": _unknown_class,
    "other class": _other_class,
    "cycle": _cycle,
    "no outputs": _no_outputs,
    "mixed": _mixed,
}
"""What is done to a graph, by name."""
