"""``comfysnap info``: a deployment as it is now."""

import asyncio
import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comfysnap_schema.cli.options import JsonOption, ProjectOption
from comfysnap_server.cli.modal_session import EnvironmentOption, modal_session

if TYPE_CHECKING:
    from comfysnap_server.backends.modal import KnownJob
    from comfysnap_server.deploy import Deployment
    from comfysnap_server.operations import DeployedApp, PoolState


def info(
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, max=1000, help="Number of recent jobs to look at.")
    ] = 50,
    as_json: JsonOption = False,
) -> None:
    """Show the deployment: versions, pools with their containers and queues, recent starts, errors
    and costs.

    Seconds are of the recent jobs of all owners, by how their container started (restored from a
    snapshot, cold, or warm) and by phase. Exits with 1 if nothing is deployed.

    Example: comfysnap info --jobs 200
    """
    from comfysnap_server.deploy import read_deployment

    deployment = read_deployment(project)
    with modal_session(quiet=True, environment=environment):
        from comfysnap_server.operations import DeployedApp

        deployed = DeployedApp(deployment)
        found = _collect(deployed, asyncio.run(deployed.jobs.newest(jobs)))
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        _show(found)


def _collect(deployed: "DeployedApp", jobs: "list[KnownJob]") -> dict[str, Any]:
    from comfysnap_server.deploy import PRICES_OF, SOURCE
    from comfysnap_server.operations import summarize

    gateway = deployed.function("gateway")
    errors = Counter(job.record.error.code for job in jobs if job.record.error)
    return {
        "name": deployed.deployment.name,
        "version": deployed.version,
        "url": gateway.get_web_url() if gateway else None,
        "versions": deployed.history(),
        "pools": [
            asdict(state) | _costs(deployed.deployment, state, jobs)
            for state in deployed.pool_states()
        ],
        "jobs": dict(Counter(str(job.record.status) for job in jobs)),
        "starts": [row.as_json() for row in summarize(jobs)],
        "errors": dict(errors),
        "prices": {"of": PRICES_OF, "source": SOURCE},
    }


def _costs(
    deployment: "Deployment", state: "PoolState", jobs: "list[KnownJob]"
) -> dict[str, float | None]:
    """Dollars an hour of one container and of those of now, and of the median job."""
    from comfysnap_server.deploy import worker_rate
    from comfysnap_server.operations import median_job_seconds

    here = {pool.pool: pool for pool in deployment.pools}
    rate = worker_rate(here[state.pool]) if state.pool in here else None
    seconds = median_job_seconds(job for job in jobs if job.pool == state.pool)
    return {
        "dollars_per_container_hour": rate and rate.of(3600),
        "dollars_per_hour_now": rate and rate.of(3600) * state.containers,
        "dollars_per_job": rate.of(seconds) if rate and seconds is not None else None,
    }


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from comfysnap_server.deploy import dollars

    def amount(value: float | None) -> str:
        return "?" if value is None else dollars(value)

    console = Console(highlight=False, markup=False)
    console.print(f"{found['name']}, version {found['version']}, at {found['url']}")
    rows: list[dict[str, Any]] = found["versions"]
    versions = Table(*(rows[0] if rows else ()), title="versions")
    for version in rows[:10]:
        versions.add_row(*(str(value or "") for value in version.values()))
    console.print(versions)
    pools = Table(
        "pool", "containers", "running", "queued", "scales", "an hour of one", "an hour now",
        "median job", title="pools",
    )  # fmt: skip
    for pool in found["pools"]:
        pools.add_row(
            pool["pool"],
            str(pool["containers"]),
            str(pool["running"]),
            str(pool["queued"]),
            f"{pool['min_containers']} to {pool['max_containers']}, {pool['scaledown_window']} s",
            amount(pool["dollars_per_container_hour"]),
            amount(pool["dollars_per_hour_now"]),
            amount(pool["dollars_per_job"]),
        )
    console.print(pools)
    console.print(f"prices of {found['prices']['of']}, from {found['prices']['source']}")
    show_starts(console, found["starts"])
    for title in ("jobs", "errors"):
        counts = ", ".join(f"{count} {name}" for name, count in found[title].items())
        console.print(f"{title}: {counts or 'none'}")


def show_starts(console: Any, rows: list[dict[str, Any]], title: str = "recent starts") -> None:
    """Print seconds by start kind and phase."""
    from rich.table import Table

    table = Table("start", "phase", "jobs", "p50 s", "p90 s", "p95 s")
    for row in rows:
        seconds = (f"{row[key]:.2f}" for key in ("p50", "p90", "p95"))
        table.add_row(row["kind"], row["phase"], str(row["count"]), *seconds)
    console.print(f"{title}:", soft_wrap=True)
    console.print(table)
