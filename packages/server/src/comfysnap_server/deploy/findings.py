"""How a validator says what is wrong with a setting."""

from typing import LiteralString

from pydantic_core import PydanticCustomError


def wrong(code: LiteralString, message: str) -> PydanticCustomError:
    """An error for a validator to raise; ``code`` becomes that of the ``SettingsError``."""
    return PydanticCustomError(code, "{message}", {"message": message})
