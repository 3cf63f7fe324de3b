"""``comfysnap measure``: how fast a deployment starts."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comfysnap_schema.cli.options import JsonOption, ProjectOption
from comfysnap_server.cli.destroy import YesOption
from comfysnap_server.cli.modal_session import EnvironmentOption, modal_session

if TYPE_CHECKING:
    from pydantic import JsonValue

    from comfysnap_schema.workflow import Workflow
    from comfysnap_server.deploy import Deployment
    from comfysnap_server.operations import PhaseSeconds, Sample


def measure(
    workflow: Annotated[
        str | None, typer.Argument(help="Workflow to run. Default: the project's default.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="Its inputs. Default: its defaults."),
    ] = None,
    starts: Annotated[
        int, typer.Option("--starts", min=1, max=500, help="Number of starts to measure.")
    ] = 20,
    with_baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="Measure as many starts without a snapshot, of a second deployment that is "
            "deleted afterwards.",
        ),
    ] = False,
    chart: Annotated[
        Path | None, typer.Option("--chart", metavar="FILE", help="Write a chart as PNG.")
    ] = None,
    yes: YesOption = False,
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how long a job waits for a container to start, and for its picture.

    Runs one job after the other, each when no container of its pool runs any more. Says what that
    will cost and asks first. Other jobs meanwhile can make starts warm. Exits with 1 if a job
    fails.

    Example: comfysnap measure flux prompt="a fox" --starts 20 --baseline --chart starts.png
    """
    from comfysnap_schema.wire import SchemaError
    from comfysnap_server.deploy import read_deployment
    from comfysnap_server.errors import BackendError

    deployment = read_deployment(project)
    try:
        chosen = _choose(deployment, workflow)
        values = _parse(chosen, inputs or [])
        with modal_session(quiet=True, environment=environment):
            rows, url = _measure(deployment, chosen, values, starts, with_baseline, yes)
    except (BackendError, SchemaError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    title = _title(deployment, chosen, url)
    if chart is not None:
        from comfysnap_server.operations import draw_starts

        draw_starts(rows, title, chart)
    if as_json:
        print(json.dumps({"title": title, "starts": [row.as_json() for row in rows]}, indent=1))
        return
    from rich.console import Console

    from comfysnap_server.cli.info import show_starts

    show_starts(Console(highlight=False, markup=False), [row.as_json() for row in rows], title)


def _choose(deployment: "Deployment", name: str | None) -> "Workflow":
    flows = deployment.workflows
    name = name or deployment.project.default or next(iter(flows))
    if name not in flows:
        raise deployment.project.unknown_workflow(name, flows, "workflow")
    return flows[name]


def _parse(workflow: "Workflow", words: list[str]) -> "dict[str, JsonValue]":
    found: dict[str, JsonValue] = {}
    for word in words:
        name, equals, text = word.partition("=")
        parameter = workflow.parameters.get(name)
        if parameter is None or not equals:
            known = ", ".join(workflow.parameters) or "none"
            print(f"error: {word!r}: expected NAME=VALUE with one of: {known}", file=sys.stderr)
            raise typer.Exit(2)
        try:
            found[name] = text if parameter.type == "string" else json.loads(text)
        except ValueError:
            found[name] = text
    missing = [n for n, p in workflow.parameters.items() if p.required and n not in found]
    if missing:
        print(f"error: missing inputs: {', '.join(missing)}", file=sys.stderr)
        raise typer.Exit(2)
    return found


def _measure(
    deployment: "Deployment",
    workflow: "Workflow",
    values: "dict[str, JsonValue]",
    starts: int,
    with_baseline: bool,
    yes: bool,
) -> "tuple[list[PhaseSeconds], str]":
    from comfysnap_server.operations import (
        DeployedApp,
        baseline,
        estimate,
        server_url,
        summarize_samples,
    )

    deployed = DeployedApp(deployment)
    pool = deployment.of_pool(deployment.pool_of[workflow.name])
    _ask(pool, estimate(deployed, pool, starts * (2 if with_baseline else 1)), yes)
    samples = _run(deployed, pool, workflow, values, starts)
    if with_baseline:
        with baseline(deployment) as twin:
            there = twin.deployment.of_pool(pool.pool)
            bare = _run(twin, there, workflow, values, starts)
            samples += [sample.named("no snapshot") for sample in bare]
    return summarize_samples(samples), server_url()


def _ask(pool: "Deployment", cost: Any, yes: bool) -> None:
    from comfysnap_server.deploy import PRICES_OF, dollars

    amount = "an unknown amount" if cost.dollars is None else f"about {dollars(cost.dollars)}"
    on = " or ".join(pool.settings.gpus or ["CPU"])
    print(
        f"{cost.starts} starts of pool {pool.pool} on {on}, of about {cost.seconds:.0f} s each: "
        f"{amount} at prices of {PRICES_OF}",
        file=sys.stderr,
    )
    if not yes and not typer.confirm("Go on?", err=True):
        raise typer.Exit(1)


def _run(
    deployed: Any,
    pool: "Deployment",
    workflow: "Workflow",
    values: "dict[str, JsonValue]",
    starts: int,
) -> "list[Sample]":
    from comfysnap_server.operations import make_request, measure_starts

    def show(sample: "Sample") -> None:
        seconds = sample.seconds.get("to first picture", 0.0)
        print(f"{deployed.deployment.name}: {sample.kind}, {seconds:.2f} s", file=sys.stderr)

    return asyncio.run(
        measure_starts(deployed, pool, lambda: make_request(pool, workflow, values), starts, show)
    )


def _title(deployment: "Deployment", workflow: "Workflow", url: str) -> str:
    from comfysnap_server.operations import MODAL_URL

    title = f"starts of {deployment.name}, workflow {workflow.name}"
    if deployment.settings.engine == "simulated":
        title += ", simulated engine"
    return title if url == MODAL_URL else f"{title}; not on Modal's cloud, but {url}"
