"""What to paste, to fix what ``comfysnap doctor`` found."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from comfysnap_schema.propose import place_of, tables_text, tables_to_add
from comfysnap_schema.wire import SchemaError
from comfysnap_server.deploy import Deployment
from comfysnap_server.doctor.issue import ProjectIssue
from comfysnap_server.models import model_references


@dataclass(frozen=True)
class Fixes:
    """What to paste for a list of issues."""

    toml: str
    """For ``comfysnap.toml``; keys of a table that is there go into it."""
    commands: tuple[str, ...]


def collect_fixes(issues: Iterable[ProjectIssue], deployment: Deployment) -> Fixes:
    """What fixes the issues, each once; sources that the exports name stand for their models."""
    tables = _sources(deployment)
    named = {place_of(table)[1] for table in tables}
    settings: dict[str, list[str]] = {}
    models: list[str] = [tables_text(tables)] if tables else []
    commands: list[str] = []
    for fix in dict.fromkeys(issue.fix for issue in issues if issue.fix):
        head, _, rest = fix.partition("\n")
        if head.startswith("[["):
            if not any(f'file = "{name}"' in rest for name in named):
                models.append(f"{fix}\n")
        elif head.startswith("["):
            settings.setdefault(head, []).append(rest)
        else:
            commands.append(fix)
    lines = ["\n".join((head, *keys, "")) for head, keys in settings.items()]
    return Fixes("\n".join((*lines, *models)), tuple(commands))


def _sources(deployment: Deployment) -> list[dict[str, Any]]:
    """The ``[[deploy.models]]`` tables of missing models whose sources the exports name."""
    if deployment.settings.engine == "simulated":
        return []
    try:
        workflows = deployment.workflows.values()
    except SchemaError:  # reported as an issue of its own
        return []
    found: list[dict[str, Any]] = []
    for workflow in workflows:
        needed = [reference for reference in model_references(workflow) if reference.is_on]
        for table in tables_to_add(workflow.folder, deployment.project.deploy):
            path = PurePosixPath(*place_of(table))
            if table not in found and any(reference.has_name_of(path) for reference in needed):
                found.append(table)
    return found
