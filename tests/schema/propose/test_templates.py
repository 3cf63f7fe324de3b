"""Proposals for ComfyUI's official templates, the workflows of this repository and real exports.

Templates: the dependency group ``templates``, or a folder in ``COMFYSNAP_TEMPLATES``. Without them,
or without the catalogue of their ComfyUI in ``../shared``, these tests are skipped.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema import codegen
from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.validation import validate_graph
from comfysnap_schema.propose.folder import write_workflow
from comfysnap_schema.propose.proposal import Proposal, propose
from comfysnap_schema.propose.view import GraphView
from comfysnap_schema.workflow.apply import load_workflows
from comfysnap_schema.workflow.check import check_workflow
from tests.schema.propose.proposals import (
    EXPECTED,
    PACKAGE,
    RELEASE,
    Template,
    of_exports,
    of_ours,
    of_template,
    read_templates,
    templates_folder,
)

pytestmark = [pytest.mark.shared, pytest.mark.timeout(600)]

Found = tuple[dict[str, Template], list[str]]


def say(*words: str) -> None:
    """Print, for ``pytest -rP``."""
    sys.stdout.write(" ".join(words) + "\n")


def catalogue_of(shared: Path, name: str) -> Catalogue:
    path = shared / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    return Catalogue.read(path)


@pytest.fixture(scope="module")
def folder() -> Path:
    found = templates_folder()
    if found is None:
        pytest.skip(f"no {PACKAGE}; uv run --group templates pytest ...")
    return found


@pytest.fixture(scope="module")
def catalogue(shared: Path) -> Catalogue:
    return catalogue_of(shared, "object_info-0.33.json")


@pytest.fixture(scope="module")
def templates(folder: Path, catalogue: Catalogue) -> dict[str, Template]:
    return read_templates(folder, catalogue)[0]


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, list[str]]]:
    return json.loads(EXPECTED.read_text(encoding="utf-8"))


def test_workflows_of_this_repository_get_the_map_that_was_looked_at(expected: Any) -> None:
    assert of_ours() == expected["workflows"]


def test_real_exports_get_the_map_that_was_looked_at(shared: Path, expected: Any) -> None:
    assert of_exports(shared) == expected["exports"]


def test_templates_get_the_map_that_was_looked_at(
    templates: dict[str, Template], catalogue: Catalogue, expected: Any
) -> None:
    same = {
        name: lines
        for name, lines in expected["templates"].items()
        if name in templates and templates[name].version == lines[0]
    }
    say(f"{len(same)} of {len(expected['templates'])} are of the version that was looked at")
    assert len(same) >= (len(expected["templates"]) if is_release_that_was_looked_at() else 10)
    assert {name: of_template(templates[name], catalogue) for name in same} == same


def is_release_that_was_looked_at() -> bool:
    named = "COMFYSNAP_TEMPLATES" in os.environ
    return not named and version(PACKAGE.replace("_", "-")) == RELEASE


def test_what_authors_chose_for_app_mode_is_proposed(
    templates: dict[str, Template], catalogue: Catalogue
) -> None:
    """Nine of ten inputs and every output without reading the choice, everything with it."""
    chosen = {
        name: each
        for name, each in templates.items()
        if each.drawing.inputs or each.drawing.outputs
    }
    inputs = outputs = without = 0
    missed: list[str] = []
    for name, template in chosen.items():
        wanted = wanted_paths(template, catalogue)
        blind = replace(template.drawing, inputs=(), outputs=())
        ours = propose(template.graph, catalogue, name="x", drawing=blind)
        theirs = propose(template.graph, catalogue, name="x", drawing=template.drawing)
        inputs += len(wanted)
        outputs += len(template.drawing.outputs)
        without += len(found := [paths for paths in wanted if paths <= offered(ours)])
        missed += [f"{name} {sorted(paths)}" for paths in wanted if paths not in found]
        assert all(paths <= offered(theirs) for paths in wanted), name
        assert set(template.drawing.outputs) <= made(ours), name
        assert set(template.drawing.outputs) <= made(theirs), name
    say(f"{len(chosen)} templates: {without} of {inputs} inputs, all {outputs} outputs")
    say("not proposed:", *missed)
    assert inputs >= 50
    assert without >= 0.9 * inputs


def wanted_paths(template: Template, catalogue: Catalogue) -> list[set[str]]:
    view = GraphView(template.graph, catalogue)
    return [
        {str(view.source(path.node, path.name)) for path in widget.paths}
        for widget in template.drawing.inputs
    ]


def offered(proposal: Proposal) -> set[str]:
    return {str(path) for entry in proposal.inputs if entry.enabled for path in entry.paths}


def made(proposal: Proposal) -> set[str]:
    return {entry.spec.node for entry in proposal.outputs if entry.enabled}


@pytest.mark.parametrize("name", ["object_info-0.33.json", "object_info.json"])
def test_every_template_becomes_a_typed_workflow_without_an_edit(
    shared: Path, folder: Path, tmp_path: Path, name: str
) -> None:
    catalogue = catalogue_of(shared, name)
    found, refused = read_templates(folder, catalogue)
    other = 0
    for title, template in found.items():
        slug = "t_" + re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
        proposal = propose(template.graph, catalogue, name=slug, drawing=template.drawing)
        scaffold = write_workflow(
            tmp_path / "workflows" / slug, template.graph, proposal, catalogue, template.drawing
        )
        assert scaffold.workflow.parameters, title
        assert scaffold.workflow.outputs, title
        if validate_graph(template.graph, catalogue):  # made for another version of its classes
            other += 1
            continue
        assert scaffold.disabled == {}, title
        assert check_workflow(scaffold.workflow).issues == (), title
    models = tmp_path / "models"
    workflows = load_workflows(tmp_path / "workflows")
    codegen.write(models, codegen.generate(workflows, package="models"))
    config = {"include": ["models"], "typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    pyright = subprocess.run(
        [sys.executable, "-m", "pyright", "-p", str(tmp_path), "--pythonpath", sys.executable],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    say(f"{name}: {len(workflows)} typed, {other} of them invalid, {len(refused)} refused:")
    say(*refused)
    assert len(workflows) >= 100
    assert pyright.returncode == 0, pyright.stdout[-3000:]
