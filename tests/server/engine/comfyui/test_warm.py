"""What the first job of a fork would do anew is done before the fork."""

from collections.abc import Mapping
from typing import Any

from comfysnap_server.engine.comfyui.warm import warm_checks, warm_imports


class Asked(Mapping[str, int]):
    """Counts how often Python asks whether a type is one of it."""

    types: list[type] = []  # noqa: RUF012 -- only this test uses it

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        cls.types.append(other)
        return NotImplemented


def test_types_of_values_in_graphs_are_known_to_be_no_mappings() -> None:
    class Registered:
        pass

    kind: Any = Mapping
    kind.register(Registered)  # Python forgets then which types are none
    warm_checks()
    assert {str, int, list} <= set(Asked.types)
    Asked.types.clear()
    values: list[object] = ["", 1, 1.5, True, [], (), None]
    assert not any(isinstance(value, Mapping) for value in values)
    assert Asked.types == []


def test_modules_that_are_not_installed_are_left_out() -> None:
    assert "PIL.PngImagePlugin" in warm_imports()
