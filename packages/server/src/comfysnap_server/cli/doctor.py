"""``comfysnap doctor``: what can be checked before a GPU is paid for."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from comfysnap_server.doctor import Probed, Symptom


def register(app: typer.Typer) -> None:
    """Add ``doctor``."""
    app.command("doctor")(doctor)


def doctor(
    project: Annotated[
        Path | None, typer.Option("--project", help="The comfysnap.toml, or its folder.")
    ] = None,
    comfyui: Annotated[
        Path | None,
        typer.Option(
            "--comfyui",
            envvar="COMFYUI_PATH",
            help="A ComfyUI checkout with the pinned packs; it is loaded to see what they do.",
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            "--python", envvar="COMFYUI_PYTHON", help="An interpreter with ComfyUI's packages."
        ),
    ] = None,
    online: Annotated[
        bool,
        typer.Option("--online", help="Ask Modal too: secrets, and models on the volume."),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 on warnings too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check workflows, nodes, models and settings without paying for a GPU.

    Exits 1 when something would fail.
    """
    from comfysnap_server.doctor import Level, examine

    found = examine(project, probed=_probe(comfyui, python))
    symptoms = list(found.symptoms)
    if online and found.deployment is not None:
        from comfysnap_server.deploy import modal_session
        from comfysnap_server.doctor import check_online

        with modal_session(quiet=True):
            symptoms += check_online(found.deployment)
    if as_json:
        print(json.dumps([symptom.as_json() for symptom in symptoms], indent=1))
    else:
        show(symptoms)
    bad = {Level.ERROR, Level.WARNING} if strict else {Level.ERROR}
    raise typer.Exit(1 if any(symptom.level in bad for symptom in symptoms) else 0)


def _probe(comfyui: Path | None, python: str | None) -> "Probed | None":
    if comfyui is None:
        return None
    from comfysnap_server.doctor import ProbeError, probe

    try:
        return probe(comfyui, python or sys.executable)
    except (ProbeError, OSError) as error:
        print(f"error: ComfyUI in {comfyui} does not load:\n{error}", file=sys.stderr)
        raise typer.Exit(1) from error


def show(symptoms: "list[Symptom]") -> None:
    """Print a table and a count."""
    from rich.console import Console
    from rich.table import Table

    from comfysnap_server.doctor import Level

    console = Console(highlight=False, width=None if os.isatty(1) else 160)
    order = list(Level)
    if symptoms:
        table = Table("level", "code", "where", "what", show_lines=True)
        colors = {Level.ERROR: "red", Level.WARNING: "yellow", Level.NOTE: "dim"}
        for symptom in sorted(symptoms, key=lambda s: order.index(s.level)):
            table.add_row(
                symptom.level.value,
                symptom.code,
                symptom.where,
                symptom.message,
                style=colors[symptom.level],
            )
        console.print(table, markup=False)
    counts = [(level, sum(s.level is level for s in symptoms)) for level in order]
    words = [f"{count} {level.value}{'' if count == 1 else 's'}" for level, count in counts]
    console.print(", ".join(words))
