"""Integers beyond 2^53 as strings of decimal digits, the form that JavaScript sends exactly."""

import re
from typing import Any, Final

DIGITS_ABOVE: Final = 2**53
"""Integers up to this are exact in every JSON implementation."""

_CANONICAL: Final = re.compile(r"(?:0|-?[1-9][0-9]{0,39})\Z")
"""40 digits are far above 64 bits, and far below what makes ``int()`` slow."""


def from_digits(value: Any) -> Any:
    """A string that is a whole number without leading zeros as ``int``; all else as it is."""
    if isinstance(value, str) and _CANONICAL.match(value):
        return int(value)
    return value


def digits_pattern(lowest_magnitude: int, highest: int) -> str:
    """A pattern for the canonical digits of every integer from ``-lowest_magnitude`` to
    ``highest``, neither below 0."""
    positive = _up_to(highest)
    if not lowest_magnitude:
        return f"^(?:0|{positive})$"
    return f"^(?:0|{positive}|-(?:{_up_to(lowest_magnitude)}))$"


def _up_to(highest: int) -> str:
    """Alternatives for 1 to ``highest``: fewer digits, or equal digits and then a smaller one."""
    digits = str(highest)
    parts = [f"[1-9][0-9]{{0,{len(digits) - 2}}}"] if len(digits) > 1 else []
    for index, digit in enumerate(digits):
        lowest = 1 if index == 0 else 0
        if int(digit) > lowest:
            rest = len(digits) - index - 1
            tail = f"[0-9]{{{rest}}}" if rest else ""
            parts.append(f"{digits[:index]}[{lowest}-{int(digit) - 1}]{tail}")
    return "|".join([*parts, digits])
