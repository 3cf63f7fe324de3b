"""The changes between two contracts, and whether they break callers of the old one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from comfysnap_schema.comfy import canonical_json
from comfysnap_schema.workflow.contract import Contract, JsonSchema, bare

_ALL_TYPES: Final = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})


@dataclass(frozen=True)
class Change:
    """One difference."""

    code: str
    """``input_added``, ``input_removed``, ``output_added``, ``output_removed``,
    ``now_required``, ``now_optional``, ``narrower``, ``wider``, ``kind_changed``."""
    field: str
    """``inputs.steps``, ``inputs.images[]`` (each item) or ``outputs.images``."""
    message: str
    breaking: bool
    """Whether a call that was valid before can be invalid now."""


def compare(old: Contract, new: Contract) -> list[Change]:
    """Every change from ``old`` to ``new``, inputs first; empty for equal hashes."""
    return [
        *_inputs("inputs.", bare(old.input_schema), bare(new.input_schema)),
        *_outputs(bare(old.output_schema), bare(new.output_schema)),
    ]


def _inputs(prefix: str, old: JsonSchema, new: JsonSchema) -> Iterable[Change]:
    before, after = _properties(old), _properties(new)
    was_required, is_required = set(old.get("required", ())), set(new.get("required", ()))
    for name in before.keys() - after.keys():
        yield Change("input_removed", f"{prefix}{name}", "removed", breaking=True)
    for name in sorted(after):
        field = f"{prefix}{name}"
        required = name in is_required
        if name not in before:
            kind = "required" if required else "optional"
            yield Change("input_added", field, f"new, {kind}", breaking=required)
            continue
        if required and name not in was_required:
            yield Change("now_required", field, "was optional, is now required", breaking=True)
        if not required and name in was_required:
            yield Change("now_optional", field, "was required, is now optional", breaking=False)
        yield from _values(field, before[name], after[name])


def _values(field: str, old: JsonSchema, new: JsonSchema) -> Iterable[Change]:
    if _kind_of(old) != _kind_of(new):
        message = f"was {_kind(old)}, is now {_kind(new)}"
        yield Change("kind_changed", field, message, breaking=True)
        return
    for narrows, widens, message in _rules(old, new):
        if narrows:
            yield Change("narrower", field, message, breaking=True)
        elif widens:
            yield Change("wider", field, message, breaking=False)
    if "items" in old and "items" in new:
        yield from _values(f"{field}[]", old["items"], new["items"])
    elif "properties" in old and "properties" in new:
        yield from _inputs(f"{field}.", old, new)


def _rules(old: JsonSchema, new: JsonSchema) -> Iterable[tuple[bool, bool, str]]:
    """For each rule of a value: whether it narrows, whether it widens, and a message."""
    before, after = _types(old), _types(new)
    yield (
        not _covers(after, before),
        not _covers(before, after),
        f"type was {_or(before)}, is now {_or(after)}",
    )
    yield from _choices(old, new)
    for key, name, tighter in _BOUNDS:
        one, other = old.get(key), new.get(key)
        message = f"{name} was {_bound(one)}, is now {_bound(other)}"
        yield tighter(one, other), tighter(other, one), message


def _choices(old: JsonSchema, new: JsonSchema) -> Iterable[tuple[bool, bool, str]]:
    before, after = old.get("enum"), new.get("enum")
    if before is None and after is None:
        return
    if before is None or after is None:
        listed = ", ".join(map(str, after or before or ()))
        verb = "now accepts only" if after is not None else "is no longer limited to"
        # Where a list of choices was added or removed, ``_types`` reports those of the choices.
        yield after is not None, after is None, f"{verb} {listed}"
        return
    gone = _missing(before, after)
    come = _missing(after, before)
    if gone:
        yield True, False, f"no longer accepts {', '.join(gone)}"
    if come:
        yield False, True, f"now also accepts {', '.join(come)}"


def _missing(values: list[Any], where: list[Any]) -> list[str]:
    known = {canonical_json(value) for value in where}
    return [str(value) for value in values if canonical_json(value) not in known]


def _types(schema: JsonSchema) -> frozenset[str]:
    if "type" not in schema and "oneOf" in schema:  # a file
        return frozenset(part["type"] for part in cast("list[JsonSchema]", schema["oneOf"]))
    if "enum" in schema:
        return frozenset(_type_of(value) for value in cast("list[Any]", schema["enum"]))
    types: str | list[str] | None = schema.get("type")
    if types is None:
        return _ALL_TYPES
    return frozenset([types] if isinstance(types, str) else types)


def _type_of(value: object) -> str:
    names: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return names.get(type(value), "null")


def _covers(types: frozenset[str], others: frozenset[str]) -> bool:
    """Whether ``types`` accept every value of ``others``; an integer is also a number."""
    covered = types | {"integer"} if "number" in types else types
    return others <= covered


def _higher(old: float | None, new: float | None) -> bool:
    return new is not None and (old is None or new > old)


def _lower(old: float | None, new: float | None) -> bool:
    return new is not None and (old is None or new < old)


def _coarser(old: int | None, new: int | None) -> bool:
    return new is not None and (old is None or old % new != 0)


_BOUNDS: Final[tuple[tuple[str, str, Callable[[Any, Any], bool]], ...]] = (
    ("minimum", "minimum", _higher),
    ("maximum", "maximum", _lower),
    ("multipleOf", "multiple_of", _coarser),
    ("maxLength", "max_length", _lower),
    ("minItems", "min_items", _higher),
    ("maxItems", "max_items", _lower),
)


def _outputs(old: JsonSchema, new: JsonSchema) -> Iterable[Change]:
    before, after = _properties(old), _properties(new)
    for name in sorted(before.keys() | after.keys()):
        field = f"outputs.{name}"
        if name not in after:
            yield Change("output_removed", field, "removed", breaking=True)
        elif name not in before:
            yield Change("output_added", field, "new", breaking=False)
        elif before[name] != after[name]:
            message = f"was {_kind(before[name])}, is now {_kind(after[name])}"
            yield Change("kind_changed", field, message, breaking=True)


def _kind_of(schema: Mapping[str, Any]) -> object:
    """A file's kind, and whether it is a list or a LoRA."""
    return schema.get("x-kind"), "items" in schema, schema.get("x-type")


def _kind(schema: Mapping[str, Any]) -> str:
    if "items" in schema:
        return f"list of {_kind(schema['items'])}"
    return str(schema.get("x-kind") or schema.get("x-type") or "a plain value")


def _properties(schema: JsonSchema) -> dict[str, JsonSchema]:
    return schema["properties"]


def _bound(value: object) -> str:
    return "unbounded" if value is None else str(value)


def _or(types: frozenset[str]) -> str:
    return "any JSON" if types == _ALL_TYPES else " or ".join(sorted(types))
