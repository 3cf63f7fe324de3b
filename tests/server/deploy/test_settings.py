from collections.abc import Callable
from pathlib import Path

import pytest

from comfysnap_schema.wire.errors import ProjectError
from comfysnap_schema.workflow import SettingsError
from comfysnap_server.deploy.deployment import (
    Deployment,
    engine_options,
    pool_of_class,
    read_deployment,
)
from comfysnap_server.deploy.gateway_settings import gateway_settings
from comfysnap_server.deploy.settings import DeploySettings

WriteProject = Callable[[str], Path]
WriteWorkflow = Callable[[str], Path]


def deployment(write: WriteProject, deploy: str) -> Deployment:
    return read_deployment(write(f'name = "pictures"\n[deploy]\n{deploy}'))


def errors_of(write: WriteProject, deploy: str) -> list[tuple[str, str | None]]:
    with pytest.raises(SettingsError) as raised:
        deployment(write, deploy)
    return [(error.code, error.field) for error in raised.value.errors]


def test_an_empty_file_is_a_deployment_with_proxy_auth_and_a_cpu_snapshot(
    write: WriteProject,
) -> None:
    read = read_deployment(write(""))
    assert read.settings == DeploySettings()
    assert (read.name, read.settings.auth, read.settings.snapshot) == ("comfysnap", "proxy", "cpu")
    assert (read.models_volume, read.files_volume) == ("comfysnap-models", "comfysnap-files")
    assert read.keys_secret is None


def test_one_gpu_or_a_ranked_list_of_them_becomes_a_list(write: WriteProject) -> None:
    assert deployment(write, 'gpu = "h100:2"').settings.gpus == ["H100:2"]
    ranked = deployment(write, 'gpu = ["L40S", "A100-80GB"]')
    assert ranked.settings.gpus == ["L40S", "A100-80GB"]
    assert deployment(write, 'engine = "simulated"').settings.gpus is None


def test_resources_are_a_request_or_a_request_and_a_limit(write: WriteProject) -> None:
    settings = deployment(write, "cpu = [1, 4]\nmemory = 2048").settings
    assert (settings.cpu, settings.memory) == ((1.0, 4.0), 2048)


@pytest.mark.parametrize(
    ("deploy", "code", "field"),
    [
        ("gpus = 1", "unknown_key", "deploy.gpus"),
        ("gateway = {min_container = 1}", "unknown_key", "deploy.gateway.min_container"),
        ('models = [{dir = "loras"}]', "unknown_key", "deploy.models[0].dir"),
        ('gpu = "RTX4090"', "unknown_gpu", "deploy.gpu[0]"),
        ('gpu = ["L4", "H100:9"]', "unknown_gpu", "deploy.gpu[1]"),
        ('gpu = "L4:"', "unknown_gpu", "deploy.gpu[0]"),
        ("gpu = []", "invalid_value", "deploy.gpu"),
        ("scaledown_window = 1", "invalid_value", "deploy.scaledown_window"),
        ("min_containers = 5", "invalid_range", "deploy"),
        ("memory = [4096, 1024]", "invalid_range", "deploy.memory"),
        ("cpu = true", "invalid_value", "deploy.cpu"),
        ("cpu = nan", "invalid_value", "deploy.cpu"),
        ("memory = [1024, inf]", "invalid_value", "deploy.memory"),
        ("memory = 0.5", "invalid_value", "deploy.memory"),
        ("gateway = 3", "invalid_value", "deploy.gateway"),
        ("workflows = []", "invalid_value", "deploy.workflows"),
        ('apt = ["--option"]', "invalid_value", "deploy.apt[0]"),
        ('pip = ["-r other.txt"]', "invalid_value", "deploy.pip[0]"),
        ('registry = "api.comfy.org"', "invalid_value", "deploy.registry"),
        ('comfyui_repository = "--help"', "invalid_value", "deploy.comfyui_repository"),
        ('mounts = [{volume = "v", path = "//comfyui"}]', "mount_conflict", "deploy"),
        ('mounts = [{volume = "v", path = "/a\\u0000"}]', "invalid_mount", None),
        ("cpu = [1, 2, 3]", "invalid_value", "deploy.cpu"),
        ("cpu = []", "invalid_value", "deploy.cpu"),
        ('snapshot = "disk"', "invalid_value", "deploy.snapshot"),
        ('auth = ""', "invalid_value", "deploy.auth"),
        ('comfyui = "master"', "unknown_comfyui", "deploy.comfyui"),
        ('comfyui = "0.999.0"', "unknown_comfyui", "deploy.comfyui"),
        (f'comfyui = "{"2" * 39}"', "unknown_comfyui", "deploy.comfyui"),
        ("retention_hours = 200", "invalid_value", "deploy.retention_hours"),
        ('preload = ["model.safetensors"]', "unsafe_path", "deploy.preload"),
        ('preload = ["../etc/passwd"]', "unsafe_path", "deploy.preload"),
        ('nodes = "snapshot.json"', "missing_file", "deploy.nodes"),
        (
            'models = [{repo = "a/b", file = "c.safetensors"}]',
            "model_without_folder",
            "deploy.models[0]",
        ),
        ('models = [{folder = "vae", url = "https://h/"}]', "model_without_name", None),
        ('models = [{folder = "vae", civitai = 5}]', "model_without_name", None),
        ('models = [{folder = "../vae", url = "https://h/a.pt"}]', "unsafe_path", None),
        ('models = [{folder = "vae", url = "https://h/a", name = "/a"}]', "unsafe_path", None),
        ('models = [{folder = "vae", url = "ftp://h/a.pt"}]', "model_source", None),
        ('models = [{folder = "vae", url = "https://h/%2e%2e"}]', "unsafe_path", None),
        ('models = [{folder = "vae", repo = "a/b", file = "x/.."}]', "unsafe_path", None),
        (f'models = [{{folder = "vae", url = "https://h/{"n" * 300}"}}]', "unsafe_path", None),
        ('models = [{folder = "vae", url = "http://h/a.pt"}]', "model_source", None),
        ('models = [{folder = "vae", url = "https://me:key@h/a.pt"}]', "model_source", None),
        ('models = [{folder = "vae", repo = "a", file = "b"}]', "model_source", None),
        ('models = [{folder = "vae", url = "https://h/a", civitai = 5}]', "model_source", None),
        ('models = [{folder = "vae"}]', "model_source", None),
        ('models = [{folder = "vae", url = "https://h/a", file = "a"}]', "model_source", None),
        (
            'models = [{folder = "vae", repo = "a/b", file = "c", include = ["*"]}]',
            "model_source",
            None,
        ),
        ('models = [{repo = "a/b", name = "c"}]', "model_source", None),
        (
            'models = [{folder = "vae", url = "https://h/a"}, '
            '{folder = "vae", repo = "o/r", file = "x/a"}]',
            "model_conflict",
            "deploy",
        ),
        ('mounts = [{volume = "v", path = "mnt"}]', "invalid_mount", "deploy.mounts[0].path"),
        ('mounts = [{volume = "v", path = "/"}]', "invalid_mount", "deploy.mounts[0].path"),
        ('mounts = [{volume = "v", path = "/models/loras"}]', "mount_conflict", "deploy"),
        (
            'mounts = [{volume = "v", path = "/mnt/a"}, {volume = "w", path = "/mnt/a"}]',
            "mount_conflict",
            "deploy",
        ),
        (
            'mounts = [{volume = "v", path = "/mnt/a"}, {volume = "v", path = "/mnt/b"}]',
            "mount_conflict",
            "deploy.volumes",
        ),
        ('volumes = {models = "v", files = "v"}', "mount_conflict", "deploy.volumes"),
    ],
)
def test_an_invalid_setting_is_an_error_of_its_field(
    write: WriteProject, deploy: str, code: str, field: str | None
) -> None:
    found = errors_of(write, deploy)
    assert [found_code for found_code, _ in found] == [code]
    assert field is None or found[0][1] == field


def test_all_errors_are_reported_at_once(write: WriteProject) -> None:
    found = errors_of(write, 'gpu = "RTX4090"\nscaledown_windw = 5\ntimeout = 1')
    assert {code for code, _ in found} == {"unknown_gpu", "unknown_key", "invalid_value"}


def test_a_misspelled_key_is_an_error_with_a_suggestion(write: WriteProject) -> None:
    with pytest.raises(SettingsError) as raised:
        deployment(write, "min_container = 1")
    assert "min_containers" in raised.value.message
    assert str(raised.value).startswith(str(raised.value.file))


def test_a_volume_with_the_default_name_of_another_is_rejected(write: WriteProject) -> None:
    assert errors_of(write, 'volumes = {files = "pictures-models"}') == [
        ("mount_conflict", "deploy.volumes")
    ]


def test_the_file_is_found_by_the_variable_or_in_this_folder_or_a_parent(
    write: WriteProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.delenv("COMFYSNAP_PROJECT", raising=False)
    assert read_deployment().file == file.resolve()
    assert read_deployment(tmp_path).file == file.resolve()
    monkeypatch.setenv("COMFYSNAP_PROJECT", str(tmp_path / "other.toml"))
    with pytest.raises(ProjectError) as raised:
        read_deployment()
    assert raised.value.code == "unreadable"


def test_no_project_anywhere_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYSNAP_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError) as raised:
        read_deployment()
    assert raised.value.code == "no_project"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('default = "nope"', "default"),
        ('[deploy]\nworkflows = ["sample", "nope"]', "deploy.workflows"),
        ('[deploy]\nwarm_up = "nope"', "deploy.warm_up"),
    ],
)
def test_an_unknown_workflow_is_an_error(
    write: WriteProject, write_workflow: WriteWorkflow, text: str, field: str
) -> None:
    write_workflow("sample")
    with pytest.raises(ProjectError) as raised:
        _ = read_deployment(write(text)).workflows
    assert (raised.value.code, raised.value.field) == ("unknown_workflow", field)


def test_only_the_chosen_workflows_are_served(
    write: WriteProject, write_workflow: WriteWorkflow
) -> None:
    for name in ("one", "two"):
        write_workflow(name)
    assert set(read_deployment(write("")).workflows) == {"one", "two"}
    assert set(deployment(write, 'workflows = ["two"]').workflows) == {"two"}


@pytest.mark.parametrize(
    ("written", "there"),
    [("workflows", "/project/workflows"), ("../shared", "/shared"), ("/srv/flows", "/srv/flows")],
)
def test_a_relative_workflows_folder_has_the_same_path_in_a_container(
    write: WriteProject, written: str, there: str
) -> None:
    read = read_deployment(write(f"workflows = {written!r}"))
    assert read.in_container(read.project.written_workflows) == there
    assert read.in_container(Path(read.file.name)) == "/project/comfysnap.toml"


def test_local_settings_are_ignored_on_modal(write: WriteProject) -> None:
    read = read_deployment(write("[serve]\nmax_timeout = 90\n[serve.local]\nmax_queued = 3\n"))
    settings = gateway_settings(read)
    assert (settings.auth, settings.max_timeout, settings.default_timeout) == ("proxy", 90, 90)


def test_a_job_may_run_as_long_as_the_deployment_allows(write: WriteProject) -> None:
    longest = gateway_settings(read_deployment(write("[deploy]\ntimeout = 7200")))
    assert (longest.max_timeout, longest.default_timeout) == (7200, 600)
    short = gateway_settings(read_deployment(write("[deploy]\ntimeout = 60")))
    assert (short.max_timeout, short.default_timeout) == (60, 60)


def test_the_secret_that_pays_for_api_nodes_reaches_the_gpu_containers_and_loads_them(
    write: WriteProject,
) -> None:
    both = read_deployment(write('[deploy]\nsecrets = ["own", "paid"]\napi_key_secret = "paid"'))
    assert both.settings.worker_secrets == ["own", "paid"]
    assert engine_options(both)["api_nodes"] is True
    without = read_deployment(write('[deploy]\nsecrets = ["own"]'))
    assert without.settings.worker_secrets == ["own"]
    assert engine_options(without)["api_nodes"] is False


def test_libraries_are_read_ahead_only_after_a_snapshot(write: WriteProject) -> None:
    for text, mode in (
        ("[deploy]", "auto"),
        ('[deploy]\nsnapshot = "gpu"\nread_ahead_libraries = "on"', "on"),
        ('[deploy]\nsnapshot = "off"', "off"),
    ):
        assert engine_options(read_deployment(write(text)))["read_ahead_libraries"] == mode


POOLS = """
gpu = "L40S"
preload = ["checkpoints/base.safetensors"]
warm_up = "one"
min_containers = 1
max_containers = 2
timeout = 100
nodes = "nodes.json"
[deploy.pools.video]
workflows = ["two"]
gpu = ["H100", "H200"]
memory = 65536
timeout = 7200
snapshot = "off"
"""


@pytest.fixture
def pools(write: WriteProject, write_workflow: WriteWorkflow, tmp_path: Path) -> Deployment:
    (tmp_path / "nodes.json").write_text("{}")
    for name in ("one", "two"):
        write_workflow(name)
    return deployment(write, POOLS)


def test_a_pool_runs_its_workflows_and_the_default_pool_the_rest(pools: Deployment) -> None:
    assert pools.pool_of == {"one": "default", "two": "video"}
    assert [(pool.class_name, pool.served) for pool in pools.pools] == [
        ("Worker", ["one"]),
        ("Worker_video", ["two"]),
    ]
    assert pools.longest_run == 7200
    classes = [pool.class_name for pool in pools.pools]
    assert [pool_of_class(name) for name in classes] == ["default", "video"]
    assert pool_of_class("gateway") is None


def test_a_pool_shares_what_it_does_not_set_but_for_what_costs_money_at_rest(
    pools: Deployment,
) -> None:
    video = pools.of_pool("video").settings
    assert (video.gpus, video.memory, video.snapshot) == (["H100", "H200"], 65536, "off")
    assert (video.nodes, video.cpu, video.max_containers) == (Path("nodes.json"), 2.0, 2)
    assert (video.preload, video.warm_up, video.min_containers) == ([], None, 0)
    assert pools.settings.gpus == ["L40S"]


def test_without_workflows_of_its_own_there_is_no_default_pool(
    write: WriteProject, write_workflow: WriteWorkflow
) -> None:
    write_workflow("one")
    read = deployment(write, '[deploy.pools.only]\nworkflows = ["one"]')
    assert [pool.class_name for pool in read.pools] == ["Worker_only"]


@pytest.mark.parametrize(
    ("pool", "code", "field"),
    [
        ("[deploy.pools.video]", "invalid_value", "deploy.pools.video.workflows"),
        ("[deploy.pools.video]\nworkflows = []", "invalid_value", "deploy.pools.video.workflows"),
        ('[deploy.pools.Video]\nworkflows = ["one"]', "invalid_value", "deploy.pools"),
        ('[deploy.pools.default]\nworkflows = ["one"]', "invalid_value", "deploy.pools"),
        (
            '[deploy.pools.a]\nworkflows = ["one"]\n[deploy.pools.b]\nworkflows = ["one"]',
            "pool_conflict",
            "deploy.pools",
        ),
        (
            '[deploy.pools.a]\nworkflows = ["one"]\ngpus = "H100"',
            "unknown_key",
            "deploy.pools.a.gpus",
        ),
        (
            '[deploy.pools.a]\nworkflows = ["one"]\nauth = "none"',
            "unknown_key",
            "deploy.pools.a.auth",
        ),
        (
            '[deploy.pools.a]\nworkflows = ["one"]\ngpu = "RTX4090"',
            "unknown_gpu",
            "deploy.pools.a.gpu[0]",
        ),
        ('[deploy.pools.a]\nworkflows = ["one"]\nmin_containers = 5', "invalid_range", "deploy"),
        (
            '[deploy.pools.a]\nworkflows = ["one"]\nnodes = "none.json"',
            "missing_file",
            "deploy.pools.a.nodes",
        ),
    ],
)
def test_an_invalid_pool_is_an_error_of_its_field(
    write: WriteProject, pool: str, code: str, field: str
) -> None:
    assert errors_of(write, pool) == [(code, field)]


@pytest.mark.parametrize("key", ['workflows = ["nope"]', 'workflows = ["one"]\nwarm_up = "nope"'])
def test_an_unknown_workflow_of_a_pool_is_an_error(
    write: WriteProject, write_workflow: WriteWorkflow, key: str
) -> None:
    write_workflow("one")
    read = deployment(write, f"[deploy.pools.a]\n{key}")
    with pytest.raises(ProjectError) as raised:
        _ = read.pools
    field = f"deploy.pools.a.{key.rpartition(chr(10))[2].partition(' ')[0]}"
    assert (raised.value.code, raised.value.field) == ("unknown_workflow", field)
