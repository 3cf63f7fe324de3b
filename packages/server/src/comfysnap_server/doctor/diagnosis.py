"""Everything about a deployment that can be checked before a GPU is paid for."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from comfysnap_schema.wire import SchemaError
from comfysnap_schema.workflow import SPEC_FILE, Workflow, check_workflow
from comfysnap_server.deploy import (
    Deployment,
    SettingsError,
    comfyui_commit,
    read_deployment,
    read_nodes,
)
from comfysnap_server.deploy.gateway_settings import KEYS_VARIABLE, gateway_settings
from comfysnap_server.doctor.models import check_models
from comfysnap_server.doctor.nodes import Probed, check_nodes, check_probe
from comfysnap_server.doctor.settings import check_settings
from comfysnap_server.doctor.symptoms import Level, Symptom
from comfysnap_server.nodepacks import NodeSnapshot


class Area(StrEnum):
    """What a check looks at; the heading of its lines."""

    SETTINGS = "settings"
    WORKFLOWS = "workflows"


@dataclass(frozen=True)
class Diagnosis:
    """What was found, and the deployment if it could be read."""

    symptoms: tuple[Symptom, ...]
    deployment: Deployment | None = None

    @property
    def errors(self) -> list[Symptom]:
        """What would make the deployment fail."""
        return [symptom for symptom in self.symptoms if symptom.level is Level.ERROR]

    @property
    def warnings(self) -> list[Symptom]:
        """What would cost money or surprise someone."""
        return [symptom for symptom in self.symptoms if symptom.level is Level.WARNING]

    def as_json(self) -> list[dict[str, Any]]:
        """For ``--json``."""
        return [symptom.as_json() for symptom in self.symptoms]


def examine(path: Path | None, *, probed: Probed | None = None) -> Diagnosis:
    """Check a project without network, account or GPU.

    Args:
        path: The ``comfysnap.toml``, its folder, or None for the nearest one.
        probed: What a ComfyUI on this machine said when it was loaded with CUDA hidden.
    """
    try:
        deployment = read_deployment(path)
    except SettingsError as error:
        return Diagnosis(tuple(_told(Area.SETTINGS, finding) for finding in error.findings))
    except SchemaError as error:
        return Diagnosis((_told(Area.SETTINGS, error),))
    return Diagnosis(tuple(_examine(deployment, probed)), deployment)


def _examine(deployment: Deployment, probed: Probed | None) -> Iterator[Symptom]:
    workflows, complaints = _load_all(deployment)
    yield from complaints
    nodes: NodeSnapshot | None = None
    try:
        nodes = read_nodes(deployment)
        comfyui_commit(deployment, nodes)
    except SchemaError as error:
        yield _told(Area.SETTINGS, error)
    try:
        gateway_settings(deployment, {KEYS_VARIABLE: "{}"})  # the secret's own are not at hand
    except SchemaError as error:
        yield _told(Area.SETTINGS, error)
    yield from check_settings(deployment, workflows, nodes)
    yield from check_nodes(deployment.settings, workflows, nodes, probed)
    yield from check_models(deployment, workflows)
    if probed is not None:
        yield from check_probe(deployment.settings, probed)


def _load_all(deployment: Deployment) -> tuple[list[Workflow], list[Symptom]]:
    """The workflows that load, and what is wrong with each of the others."""
    chosen: list[Workflow] = []
    complaints: list[Symptom] = []
    wanted = deployment.settings.workflows
    for spec in sorted(deployment.project.workflows.glob(f"*/{SPEC_FILE}")):
        try:
            workflow = Workflow.load(spec.parent)
            if wanted is None or workflow.name in wanted:
                chosen.append(workflow)
                complaints += _judge(workflow)
        except SchemaError as error:
            complaints.append(_told(Area.WORKFLOWS, error))
    if not complaints:
        try:
            _ = deployment.workflows
        except SchemaError as error:
            complaints.append(_told(Area.WORKFLOWS, error))
    return chosen, complaints


def _judge(workflow: Workflow) -> Iterator[Symptom]:
    check = check_workflow(workflow)
    for finding in check.issues:
        yield Symptom(Level.ERROR, "graph_invalid", workflow.name, finding)
    for note in check.notes:
        yield Symptom(Level.NOTE, "not_judged", workflow.name, note)


def _told(area: Area, error: SchemaError) -> Symptom:
    where = ": ".join(part for part in (error.file, error.field) if part) or area.value
    return Symptom(Level.ERROR, error.code, where, error.message)
