"""Sources of missing models, as the exports of the workflows name them."""

from pathlib import PurePosixPath
from typing import Any

from comfysnap_schema.propose import place_of, tables_text, tables_to_add
from comfysnap_schema.wire import SchemaError
from comfysnap_server.deploy import Deployment
from comfysnap_server.models import model_references


def missing_tables(deployment: Deployment) -> str:
    """The ``[[deploy.models]]`` tables to add for models that workflows need, as TOML; empty when
    nothing is missing or no export names a source."""
    if deployment.settings.engine == "simulated":
        return ""
    try:
        workflows = deployment.workflows.values()
    except SchemaError:  # reported as an issue of its own
        return ""
    found: list[dict[str, Any]] = []
    for workflow in workflows:
        needed = [reference for reference in model_references(workflow) if reference.is_on]
        for table in tables_to_add(workflow.folder, deployment.project.deploy):
            path = PurePosixPath(*place_of(table))
            if table not in found and any(reference.has_name_of(path) for reference in needed):
                found.append(table)
    return tables_text(found)
