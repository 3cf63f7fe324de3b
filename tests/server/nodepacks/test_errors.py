import re
from importlib import import_module

from comfysnap_server import errors


def test_the_tree_in_the_docstring_has_every_error() -> None:
    for module in ("cli.demo", "models", "nodepacks"):
        import_module(f"comfysnap_server.{module}")
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted(kind.__name__ for kind in errors.CommandError.__subclasses__())
