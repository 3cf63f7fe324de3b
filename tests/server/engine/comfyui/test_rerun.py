"""Top-level statements of a module run again if they bind given names."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from comfysnap_server.engine.comfyui.rerun import compile_again

SOURCE = """
import os

flag = os.environ.get("REAL") == "1"
other = object()
kept = "plain"

def choose():
    return "slow"

try:
    if flag:
        def choose():
            return "quick"
        os.chosen = True
except TypeError:
    failed = True

class Holder:
    kept = "inside"

if flag:
    kept = "decided"
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imported while the environment variable was "no"; it is "yes" now."""
    monkeypatch.delenv("REAL", raising=False)
    file = tmp_path / "decides.py"
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("decides", file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    monkeypatch.setenv("REAL", "1")
    monkeypatch.setattr(os, "chosen", None, raising=False)
    return made


def again(module: Any, *names: str) -> None:
    code = compile_again(module, names)
    assert code is not None
    exec(code, module.__dict__)  # noqa: S102 the module's own statements


def test_only_the_statements_that_bind_the_value_run_again(module: Any) -> None:
    other = module.other
    again(module, "flag", "kept")
    assert (module.flag, module.kept) == (True, "decided")
    assert module.other is other
    assert module.choose() == "slow"
    again(module, "failed")
    assert module.choose() == "quick"


def test_a_function_is_defined_again_if_its_condition_is_true_now(module: Any) -> None:
    again(module, "flag")
    again(module, "choose")
    assert module.choose() == "quick"


def test_an_attribute_of_another_module_is_set_again(module: Any) -> None:
    again(module, "flag", "os.chosen")
    assert os.chosen is True  # type: ignore[attr-defined]


def test_a_name_that_is_not_bound_compiles_to_none(module: Any) -> None:
    assert compile_again(module, ["absent"]) is None
    assert compile_again(module, ["Holder.kept"]) is None
