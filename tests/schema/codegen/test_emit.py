"""Generated modules: names, docstrings, types, bytes."""

import ast
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfysnap_schema.codegen.emit import generate
from comfysnap_schema.codegen.schema import docstring, wrapped_string
from comfysnap_schema.wire.errors import WorkflowError
from comfysnap_schema.workflow.apply import Workflow, load_workflows
from tests.schema.conftest import MakeWorkflow

OUTPUTS = """
[outputs.image]
node = "3"
[outputs.clip]
node = "3"
kind = "animation"
[outputs.film]
node = "3"
kind = "video"
[outputs.sound]
node = "3"
kind = "audio"
many = true
[outputs.shape]
node = "3"
kind = "3d"
[outputs.file]
node = "3"
kind = "file"
[outputs.text]
node = "3"
kind = "text"
[outputs.data]
node = "3"
kind = "json"
"""


def module(make_workflow: MakeWorkflow, text: str) -> str:
    prepare = "def prepare(graph, inputs):\n    return graph\n"
    workflow = Workflow.load(make_workflow(text, prepare__py=prepare))
    return generate({workflow.name: workflow})[f"{workflow.name}.py"]


def fields(source: str, class_name: str) -> dict[str, str]:
    """Field to annotation and default, as written."""
    found = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    return {
        ast.unparse(item.target): ast.unparse(item).split(": ", 1)[1]
        for item in found.body
        if isinstance(item, ast.AnnAssign)
    }


def test_the_same_workflows_make_the_same_bytes(root: Path) -> None:
    workflows = load_workflows(root / "workflows")
    reordered = dict(reversed(workflows.items()))
    assert generate(workflows) == generate(reordered)


def test_every_kind_of_output_has_its_type(make_workflow: MakeWorkflow) -> None:
    source = module(make_workflow, f'name = "kinds"\n{OUTPUTS}')
    assert fields(source, "KindsOutput") == {
        "image": "ImageFile",
        "clip": "AnimationFile",
        "film": "VideoFile",
        "sound": "list[AudioFile]",
        "shape": "Model3DFile",
        "file": "OutputFile",
        "text": "str",
        "data": "JsonValue",
    }


def test_long_lists_of_choices_are_named_once(make_workflow: MakeWorkflow) -> None:
    choices = "choices = ['a', 'b', 'c', 'd', 'e', 'f', 'g']"
    text = (
        f'name = "x"\n[inputs.first]\n{choices}\ndefault = "a"\n[inputs.second]\n{choices}\n'
        f'default = "b"\n[inputs.short]\nchoices = ["a", "b"]\ndefault = "b"\n{OUTPUTS}'
    )
    source = module(make_workflow, text)
    assert source.count("Literal[") == 2
    found = fields(source, "XInput")
    assert found["first"] == "XFirst = 'a'"
    assert found["second"] == "XFirst = 'b'"
    assert found["short"] == "Literal['a', 'b'] = 'b'"


def test_names_that_clash_get_an_underscore_and_an_alias(make_workflow: MakeWorkflow) -> None:
    names = ["class", "class_", "json", "copy", "schema", "validate", "model_config", "model_name",
             "int", "str", "float", "bool", "list", "workflow", "dict", "from_orm"]  # fmt: skip
    entries = "".join(f"[inputs.{name}]\ndefault = 1\n" for name in names)
    source = module(make_workflow, f'name = "x"\n{entries}{OUTPUTS}')
    found = fields(source, "XInput")
    assert len(found) == len(names)
    for name in ("class", "json", "copy", "schema", "validate", "model_config", "int"):
        assert f"alias='{name}'" in "".join(found.values())
    assert "model_name" in found
    compile(source, "x.py", "exec")


def test_the_docstring_of_a_field_has_its_range(
    make_workflow: MakeWorkflow,
) -> None:
    """An editor shows ``width: int`` and the docstring, never what ``Field`` holds."""
    entries = {
        "size": 'type = "integer"\nminimum = 16\nmaximum = 64\nmultiple_of = 8\ndefault = 16\n'
        'description = "Edge"',
        "low": 'type = "number"\nminimum = 0.5\ndefault = 1.0\ndescription = "Low."',
        "high": 'type = "integer"\nmaximum = 9\ndefault = 1',
        "step": 'type = "integer"\nmultiple_of = 3\ndefault = 3',
        "seed": f'type = "integer"\nminimum = 0\nmaximum = {2**64 - 1}\nrandom = true',
        "text": 'type = "string"\nmax_length = 9\ndefault = "x"',
        "shift": "choices = [0.5, 1.0]\ndefault = 0.5",
        "plain": 'default = "x"\ndescription = "No range, no full stop"',
    }
    text = "".join(f"[inputs.{name}]\n{entry}\n" for name, entry in entries.items())
    source = module(make_workflow, f'name = "x"\n{text}{OUTPUTS}')
    body = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "XInput"
    )
    docstrings = {
        ast.unparse(field.target): ast.literal_eval(text.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    assert docstrings == {
        "size": "Edge. From 16 to 64, a multiple of 8.",
        "low": "Low. At least 0.5.",
        "high": "At most 9.",
        "step": "A multiple of 3.",
        "seed": "From 0 to 2^64 - 1. Random for each job when left out.",
        "text": "At most 9 characters.",
        "shift": "One of 0.5, 1.0.",
        "plain": "No range, no full stop",
    }


def test_any_description_is_only_text_in_the_module(make_workflow: MakeWorkflow) -> None:
    text = (
        'name = "x"\ntitle = "A \\"quoted\\" title"\n[inputs.a]\ndefault = "\\\\n \\"\\"\\""\n'
        "description = 'Ends in a \"quote\"'\n[inputs.b]\ndefault = 1\n"
        f'description = "{"long words " * 20}"\n[inputs.c]\ndefault = 2\n'
        f"description = '''evil\n\"\"\"\nimport os\n\"\"\"'''\n{OUTPUTS}"
    )
    source = module(make_workflow, text)
    assert "import os" not in [ast.unparse(node) for node in ast.walk(ast.parse(source))
                               if isinstance(node, ast.Import)]  # fmt: skip
    assert fields(source, "XInput")["a"] == repr('str = \\n """')[1:-1].replace("= ", "= '") + "'"
    assert max(map(len, source.splitlines())) <= 100


@given(text=st.text(), indent=st.sampled_from([0, 4]))
def test_a_docstring_is_one_literal_whatever_the_text(text: str, indent: int) -> None:
    plain = "".join(c if c.isprintable() else " " for c in text).split()
    literal = docstring(text, indent)
    assert (ast.literal_eval(literal).split() if literal else []) == plain


@given(text=st.text(min_size=1))
def test_a_wrapped_string_is_the_same_string(text: str) -> None:
    assert ast.literal_eval(wrapped_string(text)) == text


def test_a_module_cannot_be_named_like_a_python_keyword(make_workflow: MakeWorkflow) -> None:
    with pytest.raises(WorkflowError) as caught:
        module(make_workflow, f'name = "import"\n{OUTPUTS}')
    assert (caught.value.code, caught.value.field) == ("reserved_name", "name")


def test_two_names_that_give_one_class_are_rejected(make_workflow: MakeWorkflow) -> None:
    one = Workflow.load(make_workflow(f'name = "flux_2"\n{OUTPUTS}', folder="one"))
    two = Workflow.load(make_workflow(f'name = "flux2"\n{OUTPUTS}', folder="two"))
    with pytest.raises(WorkflowError) as caught:
        generate({"flux_2": one, "flux2": two})
    assert caught.value.code == "duplicate_class"


def test_generated_modules_are_clean_under_our_own_rules(
    root: Path, tmp_path: Path, make_workflow: MakeWorkflow
) -> None:
    entries = (
        '[inputs.a]\ndefault = 1\n[inputs.b]\nchoices = [0.5, 1]\n[inputs.c]\nkind = "image"\n'
    )
    (tmp_path / "x.py").write_text(module(make_workflow, f'name = "x"\n{entries}{OUTPUTS}'))
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", root / "pyproject.toml",
             tmp_path / "x.py"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "class_name"), [("workflow", "WorkflowWorkflowInput"), ("file", "FileWorkflowInput")]
)
def test_a_workflow_may_be_named_like_a_class_of_ours(
    make_workflow: MakeWorkflow, run_module: Callable[[str], Any], name: str, class_name: str
) -> None:
    entries = '[inputs.image]\nkind = "image"\n'
    source = module(make_workflow, f'name = "{name}"\n{entries}{OUTPUTS}')
    assert fields(source, class_name) == {"image": "FileInput"}
    assert run_module(source).__dict__[class_name].model_fields.keys() == {"image"}


def test_names_of_choices_do_not_clash_with_other_names(make_workflow: MakeWorkflow) -> None:
    entries = "".join(
        f"[inputs.{name}]\nchoices = {[f'{name}{n}' for n in range(7)]}\n"
        for name in ("input", "output", "x1", "x_1", "int", "input_choice")
    )
    source = module(make_workflow, f'name = "big"\n{entries}{OUTPUTS}')
    aliases = [
        ast.unparse(node.targets[0])
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
    ]
    assert aliases == [
        "BigInputChoice", "BigOutputChoice", "BigX1", "BigX1Choice", "BigIntChoice",
        "BigInputChoiceChoice",
    ]  # fmt: skip
    assert len(set(fields(source, "BigInput").values())) == 6


def test_a_long_prompt_is_wrapped_over_several_lines() -> None:
    prompt = "a fox in the snow, " * 20
    literal = wrapped_string(prompt)
    assert ast.literal_eval(literal) == prompt
    assert literal.count("\n") >= 4
    assert max(map(len, literal.splitlines())) <= 90
