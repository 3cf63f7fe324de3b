"""Workflows read from what a server sends: the same modules, and a stranger's texts stay texts."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.codegen import generate, generate_typescript
from comfysnap_schema.wire import WorkflowDetail, WorkflowError
from comfysnap_schema.workflow import (
    Parameter,
    Workflow,
    WorkflowSpec,
    check_workflow_name,
    load_workflows,
    workflow_from_contract,
)
from tests.typescript.workflows import everything, lists

EVIL = (
    '"""\nimport evil\n"""', '"evil"', "'evil'", "\\", 'evil\\"""', '*/ evil(); /*', "evil\n",
    "\r evil",
    "\u2028evil();\u2029", "${evil}", "`evil`", "{{ evil }}", "{% evil %}", "# evil", "// evil",
    "\x00evil", "</script>evil", "\u202eevil", '", evil(), "', "' + evil() + '",
)  # fmt: skip


def detail_of(workflow: Workflow) -> WorkflowDetail:
    """What a server sends of a workflow, after its way as JSON."""
    sent = WorkflowDetail(
        name=workflow.name,
        title=workflow.spec.title,
        description=workflow.spec.description,
        contract=workflow.contract.hash,
        input_schema=workflow.contract.input_schema,
        output_schema=workflow.contract.output_schema,
    )
    return WorkflowDetail.model_validate_json(sent.model_dump_json())


def read(workflows: dict[str, Workflow]) -> dict[str, Workflow]:
    return {name: workflow_from_contract(detail_of(one)) for name, one in workflows.items()}


def test_the_same_bytes_are_generated_as_from_the_folders(root: Path, tmp_path: Path) -> None:
    ours = load_workflows(root / "workflows")
    tested = {"everything": everything(tmp_path), "lists": lists(tmp_path)}
    for workflows in (ours, tested):
        found = read(workflows)
        assert generate(found, package="app.models") == generate(workflows, package="app.models")
        assert generate_typescript(found) == generate_typescript(workflows)


def strangers(**inputs: Parameter) -> Workflow:
    """A workflow whose every text is an attempt to break out."""
    text = "\n".join(EVIL)
    spec = WorkflowSpec.model_validate(
        {
            "name": "stranger",
            "title": text,
            "description": text,
            "outputs": {"image": {"node": "1", "description": text}},
        }
    )
    return Workflow(folder=Path(), spec=spec, graph={}, parameters=inputs)


def hostile() -> Workflow:
    inputs = {
        f"input_{index}": Parameter(
            name=f"input_{index}", type="string", title=text, description=text, default=text
        )
        for index, text in enumerate(EVIL)
    }
    few = [
        Parameter(name=f"few_{index}", type="string", choices=(text, "b"), default=text)
        for index, text in enumerate(EVIL)
    ]
    listed = Parameter(
        name="listed", type="string", each=True, max_items=20, choices=EVIL, default=[*EVIL]
    )
    loras = Parameter(
        name="loras", type="loras", max_items=1, minimum=-1.0, maximum=1.0, choices=EVIL, default=[]
    )
    for parameter in (
        *few, listed, loras,
        Parameter(name="many", type="string", choices=EVIL, default=EVIL[0]),
        Parameter(name="json", type="json", default={text: [text] for text in EVIL}),
        Parameter(name="model", type="model", folder=EVIL[0], default=EVIL[0]),
        Parameter(name="class", type="integer", required=True),
    ):  # fmt: skip
        inputs[parameter.name] = parameter
    return strangers(**inputs)


def test_texts_of_a_stranger_stay_texts_in_python(run_module: Callable[[str], Any]) -> None:
    found = read({"stranger": hostile()})
    sources = generate(found)
    assert sources.keys() == {"stranger.py", "__init__.py"}
    for node in ast.walk(ast.parse(sources["stranger.py"])):
        assert not isinstance(node, ast.Import)
        names = [node.id] if isinstance(node, ast.Name) else []
        names += [node.attr] if isinstance(node, ast.Attribute) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any("evil" in name for name in names)
    model: Any = run_module(sources["stranger.py"]).StrangerInput
    made = model(class_=1)
    for index, text in enumerate(EVIL):
        assert getattr(made, f"input_{index}") == getattr(made, f"few_{index}") == text
        assert model(class_=1, many=text).many == text
    assert made.listed == [*EVIL]
    assert made.model_dump()["json_"] == {text: [text] for text in EVIL}


def test_texts_of_a_stranger_stay_texts_in_typescript() -> None:
    source = generate_typescript(read({"stranger": hostile()}))
    string = r'"(?:[^"\\\n\r\u2028\u2029]|\\.)*"'
    code = re.sub(rf"{string}|/\*.*?\*/|//[^\n\r\u2028\u2029]*", "", source, flags=re.DOTALL)
    assert "evil" in source
    assert "evil" not in code
    assert not re.search(r"[`'\\\u2028\u2029]", code.replace("`${bigint}`", ""))


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "a/b", "a\\b", "x\n", "", "__init__", "Flux", "class", "é", "x.y", "a" * 65],
)
def test_a_name_that_is_not_safe_is_refused(name: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        check_workflow_name(name)
    assert caught.value.code == "invalid_name"
    detail = detail_of(strangers()).model_copy(update={"name": name})
    with pytest.raises(WorkflowError) as caught:
        workflow_from_contract(detail)
    assert caught.value.code == "invalid_name"


WIDTH = "input_schema.properties.width"
GONE = object()
Changes = list[tuple[str, object]]


def changed(*changes: tuple[str, object]) -> WorkflowDetail:
    """The contract of a small workflow, with other values at some places."""
    width = Parameter(name="width", type="integer", default=64, minimum=16, maximum=512)
    loras = Parameter(
        name="loras", type="loras", max_items=1, minimum=-1.0, maximum=1.0, default=[], folder="x"
    )
    image = Parameter(name="image", type="file", each=True, max_items=2, default=[])
    sent = detail_of(strangers(width=width, loras=loras, image=image)).model_dump()
    for place, value in changes:
        *parents, key = place.split(".")
        table: dict[str, Any] = sent
        for parent in parents:
            table = table[parent]
        table[key] = value
        if value is GONE:
            del table[key]
    return WorkflowDetail.model_validate(sent)


OTHERS: list[Changes] = [
    [("contract", "0" * 16)],
    [("contract", '"; evil')],
    [("input_schema.properties", GONE)],
    [("input_schema.properties.Width", {"type": "string"})],
    [(f"{WIDTH}.default", "64; evil")],
    [(f"{WIDTH}.default", 4)],
    [(f"{WIDTH}.default", [64])],
    [(f"{WIDTH}.title", ["x"])],
    [(f"{WIDTH}.format", "new"), ("contract", "f" * 16)],  # a hash that covers the new word
    [(f"{WIDTH}.maximum", float("inf"))],
    [("input_schema.properties.loras.default", ["x"])],
    [("input_schema.properties.loras.default", "x")],
    [("input_schema.properties.image.default", ["x"])],
    [("output_schema.properties", {})],
    [("output_schema.properties.image.x-kind", "hologram")],
    [("output_schema.properties.image.x-kind", GONE)],
]


@pytest.mark.parametrize("changes", OTHERS)
def test_a_contract_of_another_format_is_refused(changes: Changes) -> None:
    with pytest.raises(WorkflowError) as caught:
        workflow_from_contract(changed(*changes))
    assert caught.value.code == "invalid_contract"


def test_words_that_mean_nothing_for_the_hash_may_be_new() -> None:
    detail = changed(("input_schema.x-new", 1))
    assert set(workflow_from_contract(detail).parameters) == {"width", "loras", "image"}
