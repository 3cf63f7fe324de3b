"""What ``modal deploy`` registers for a ``comfysnap.toml``, read from the messages it sent."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from modal_proto import api_pb2

from tests.control_plane import ControlPlane
from tests.control_plane.plane import DeployFailed
from tests.paths import ROOT

pytestmark = pytest.mark.modal


SETTINGS = """
name = "{name}"
workflows = {workflows!r}
default = "hello"

[deploy]
{deploy}
"""

Register = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def empty() -> Any:
    """A control plane of its own: what it was asked for is all from here."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture
def register(empty: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Register:
    """Deploy settings; functions, by name, as they were registered."""

    def work(deploy: str, *tables: str) -> dict[str, Any]:
        name = f"app-{len(empty.state.apps)}"
        text = SETTINGS.format(name=name, workflows=str(ROOT / "workflows"), deploy=deploy)
        (tmp_path / "comfysnap.toml").write_text(text + "".join(tables))
        empty.state.requests.clear()
        variables = {"COMFYSNAP_PROJECT": str(tmp_path / "comfysnap.toml")}
        empty.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        sent = cast("list[api_pb2.FunctionCreateRequest]", empty.state.requests["FunctionCreate"])
        return {_definition(message).function_name: message for message in sent}

    return work


def _definition(message: api_pb2.FunctionCreateRequest) -> api_pb2.Function:
    ranked = message.function_data.ranked_functions
    return ranked[0].function if ranked else message.function


def test_an_empty_table_is_a_cpu_snapshot_behind_proxy_auth(register: Register) -> None:
    sent = register("")
    worker, gateway = _definition(sent["Worker.*"]), _definition(sent["gateway"])
    assert worker.checkpointing_enabled
    assert "enable_gpu_snapshot" not in worker.experimental_options
    assert worker.resources.gpu_config.gpu_type == "L40S"
    assert worker.max_concurrent_inputs == 0
    assert (worker.timeout_secs, worker.startup_timeout_secs) == (1920, 900)
    assert gateway.checkpointing_enabled
    assert gateway.webhook_config.requires_proxy_auth
    assert gateway.webhook_config.type == api_pb2.WEBHOOK_TYPE_ASGI_APP
    assert gateway.max_concurrent_inputs == 100
    assert gateway.resources.gpu_config.gpu_type == ""
    assert sent["sweep"].function.schedule.cron.cron_string == "*/30 * * * *"


def test_the_longest_timeout_is_within_the_limit_of_modal(register: Register) -> None:
    assert _definition(register("timeout = 86400")["Worker.*"]).timeout_secs == 86400


def test_a_ranked_list_of_gpus_keeps_its_order(register: Register) -> None:
    sent = register('gpu = ["H100", "A100-80GB:2", "L40S"]')
    ranked = sent["Worker.*"].function_data.ranked_functions
    gpus = [entry.function.resources.gpu_config for entry in sorted(ranked, key=lambda e: e.rank)]
    assert [(gpu.gpu_type, gpu.count) for gpu in gpus] == [
        ("H100", 1), ("A100-80GB", 2), ("L40S", 1)
    ]  # fmt: skip


def test_a_gpu_snapshot_is_asked_for_by_its_option(register: Register) -> None:
    worker = _definition(register('snapshot = "gpu"')["Worker.*"])
    assert worker.checkpointing_enabled
    assert worker.experimental_options["enable_gpu_snapshot"] == "True"


def test_without_snapshots_none_is_registered(register: Register) -> None:
    sent = register('snapshot = "off"', "\n[deploy.gateway]\nsnapshot = false\n")
    assert not _definition(sent["Worker.*"]).checkpointing_enabled
    assert not _definition(sent["gateway"]).checkpointing_enabled


def test_scaling_memory_and_place_are_as_set(register: Register) -> None:
    sent = register(
        "min_containers = 1\nmax_containers = 7\nbuffer_containers = 2\nscaledown_window = 33\n"
        'memory = [8192, 16384]\nregion = ["eu-west", "us"]\n',
        "\n[deploy.gateway]\nmax_containers = 3\nmax_inputs = 20\n",
    )
    worker, gateway = _definition(sent["Worker.*"]), _definition(sent["gateway"])
    scaling = worker.autoscaler_settings
    assert (scaling.min_containers, scaling.max_containers) == (1, 7)
    assert (scaling.buffer_containers, scaling.scaledown_window) == (2, 33)
    assert (worker.resources.memory_mb, worker.resources.memory_mb_max) == (8192, 16384)
    assert list(worker.scheduler_placement.regions) == ["eu-west", "us"]
    assert gateway.autoscaler_settings.max_containers == 3
    assert gateway.max_concurrent_inputs == 20


def test_volumes_and_secrets_are_where_they_belong(empty: ControlPlane, register: Register) -> None:
    empty.secret("hf", {"HF_TOKEN": "x"})
    empty.secret("team-keys", {"COMFYSNAP_KEYS": "{}"})
    empty.do(_make_volume(empty, "shared-loras"))
    sent = register(
        'secrets = ["hf"]\nauth = "keys"\nkeys_secret = "team-keys"\n',
        '\n[deploy.volumes]\nmodels = "all-models"\n'
        '\n[[deploy.mounts]]\nvolume = "shared-loras"\npath = "/mnt/loras"\n',
    )
    worker, gateway = _definition(sent["Worker.*"]), _definition(sent["gateway"])
    names = empty.state.names
    mounted = {mount.mount_path: names[mount.volume_id] for mount in worker.volume_mounts}
    files = next(name for name in mounted.values() if name.endswith("-files"))
    assert mounted == {"/files": files, "/models": "all-models", "/mnt/loras": "shared-loras"}
    read_only = [mount.mount_path for mount in worker.volume_mounts if mount.read_only]
    assert read_only == ["/models", "/mnt/loras"]
    assert [names[mount.volume_id] for mount in gateway.volume_mounts] == [files]
    assert [names[secret] for secret in worker.secret_ids] == ["hf"]
    assert [names[secret] for secret in gateway.secret_ids] == ["team-keys"]
    assert not gateway.webhook_config.requires_proxy_auth


async def _make_volume(plane: ControlPlane, name: str) -> None:
    plane.state.named_id("vo", name)


def test_a_secret_that_does_not_exist_stops_the_deployment(register: Register) -> None:
    with pytest.raises(DeployFailed):
        register('secrets = ["not-there"]')


def test_a_redeploy_keeps_the_functions_and_counts_the_version(
    empty: ControlPlane, tmp_path: Path
) -> None:
    text = SETTINGS.format(name="twice", workflows=str(ROOT / "workflows"), deploy="")
    (tmp_path / "comfysnap.toml").write_text(text)
    variables = {"COMFYSNAP_PROJECT": str(tmp_path / "comfysnap.toml")}
    seen: list[tuple[dict[str, str], int]] = []
    for _ in range(2):
        empty.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        app = empty.state.app("twice")
        seen.append((dict(app.functions), app.version))
    (first, one), (second, two) = seen
    assert first == second
    assert (one, two) == (1, 2)


def test_the_example_of_the_repository_deploys_from_its_folder(empty: ControlPlane) -> None:
    file = ROOT / "packages" / "server" / "src" / "comfysnap_server" / "deploy" / "app.py"
    empty.deploy(str(file), environment={}, cwd=ROOT)
    assert set(empty.state.app("comfysnap").functions) == {"Worker.*", "gateway", "sweep"}


async def test_bearer_keys_come_from_their_secret(empty: ControlPlane, tmp_path: Path) -> None:
    import hashlib
    import json

    keys = {"anna": hashlib.sha256(b"sesame").hexdigest()}
    empty.secret("keyed-keys", {"COMFYSNAP_KEYS": json.dumps(keys)})
    text = SETTINGS.format(
        name="keyed",
        workflows=str(ROOT / "workflows"),
        deploy='engine = "simulated"\nauth = "keys"',
    )
    (tmp_path / "comfysnap.toml").write_text(text)
    variables = {"COMFYSNAP_PROJECT": str(tmp_path / "comfysnap.toml")}
    empty.add_container_environment(variables)
    await asyncio.to_thread(
        empty.deploy, "-m", "comfysnap_server.deploy.app", environment=variables
    )
    app = empty.state.app("keyed")
    url = empty.state.functions[app.functions["gateway"]].web_url
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        assert (await client.get("/workflows")).status_code == 401
        right = {"Authorization": "Bearer sesame"}
        assert (await client.get("/workflows", headers=right)).status_code == 200


def test_the_gpu_class_needs_nothing_of_the_gateway(tmp_path: Path) -> None:
    text = SETTINGS.format(name="slim", workflows=str(ROOT / "workflows"), deploy="")
    (tmp_path / "comfysnap.toml").write_text(text)
    program = (
        "import sys\n"
        "for name in ('fastapi', 'starlette', 'httpx', 'uvicorn', 'jsonschema_rs', 'torch',\n"
        "             'sse_starlette', 'huggingface_hub', 'typer'):\n"
        "    sys.modules[name] = None\n"
        "import comfysnap_server.deploy.functions.worker\n"
    )
    environment = {
        "COMFYSNAP_PROJECT": str(tmp_path / "comfysnap.toml"),
        "MODAL_CONFIG_PATH": "/nonexistent",
        "MODAL_IS_REMOTE": "1",
        "PATH": "/usr/bin:/bin",
    }
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
