"""Docstrings that introduce a block of code with two colons, as Markdown with one."""

import re
from typing import Any

import griffe


class OneColon(griffe.Extension):
    """``as here::`` becomes ``as here:``, and ``Example::`` no section of Google's style."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of each object that is loaded."""
        if obj.docstring is not None:
            text = re.sub(r"^(\s*)Example::$", r"\1For example:", obj.docstring.value, flags=re.M)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.M)
