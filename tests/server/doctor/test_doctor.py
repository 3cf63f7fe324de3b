import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from comfysnap_server.doctor import Level, examine
from comfysnap_server.nodepacks import Probe
from tests.paths import ROOT

WriteProject = Callable[[str], Path]
COMMIT = "1" * 40

NODES: dict[str, Any] = {
    "CheckpointLoaderSimple": {"module": "nodes", "inputs": {"ckpt_name": [["a.safetensors"]]}},
    "ImpactNode": {"module": "custom_nodes.ComfyUI-Impact-Pack.nodes", "inputs": {}},
    "SaveImage": {"module": "nodes", "inputs": {"images": ["IMAGE"]}},
}


@pytest.fixture
def workflow(tmp_path: Path) -> Callable[..., None]:
    """Writes the workflow ``art`` with a loader, a custom node and an output."""

    def workflow(text: str = "", *, catalogue: bool = True, images: Any = ("2", 0)) -> None:
        folder = tmp_path / "workflows" / "art"
        folder.mkdir(parents=True, exist_ok=True)
        graph: dict[str, Any] = {
            "1": {"class_type": "CheckpointLoaderSimple",
                  "inputs": {"ckpt_name": "a.safetensors"}},
            "2": {"class_type": "ImpactNode", "inputs": {}},
            "3": {"class_type": "SaveImage", "inputs": {"images": images}},
        }  # fmt: skip
        (folder / "graph.json").write_text(json.dumps(graph))
        (folder / "workflow.toml").write_text(
            f'name = "art"\n{text}\n[outputs.images]\nnode = "3"\nkind = "image"\n'
        )
        entries = {
            name: {
                "input": {"required": entry["inputs"]},
                "output": ["IMAGE"],
                "output_node": name == "SaveImage",
                "python_module": entry["module"],
            }
            for name, entry in NODES.items()
        }
        if catalogue:
            (folder / "nodes.json").write_text(json.dumps(entries))

    return workflow


GOOD = """
[deploy]
nodes = "snapshot.json"
[[deploy.models]]
folder = "checkpoints"
url = "https://example.com/a.safetensors"
"""


@pytest.fixture
def snapshot(tmp_path: Path) -> Callable[..., None]:
    """Writes a node snapshot that pins the pack of ``art``."""

    def snapshot(name: str = "ComfyUI-Impact-Pack", **options: Any) -> None:
        packs = {f"https://github.com/owner/{name}": {"hash": COMMIT, **options}}
        (tmp_path / "snapshot.json").write_text(json.dumps({"git_custom_nodes": packs}))

    return snapshot


def found(file: Path, **options: Any) -> set[tuple[str, str]]:
    return {(s.level.value, s.code) for s in examine(file, **options)[0]}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('max_timeout = "long"', "invalid_value"),
        ("max_wate = 3", "unknown_key"),
        ("max_wait = -1", "invalid_value"),
        ("[serve.local]\nmax_queue = 3", "unknown_key"),
    ],
)
def test_a_gateway_that_would_not_start_is_an_error(
    write: WriteProject,
    workflow: Callable[..., None],
    snapshot: Callable[..., None],
    line: str,
    code: str,
) -> None:
    workflow()
    snapshot()
    assert found(write(f"[serve]\n{line}\n{GOOD}")) == {("error", code)}


def test_a_valid_project_has_no_issues(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow()
    snapshot()
    assert found(write(GOOD)) == set()


def test_every_invalid_setting_is_reported(write: WriteProject) -> None:
    assert found(write('[deploy]\ngpu = "X"\ntimeot = 3')) == {
        ("error", "unknown_gpu"),
        ("error", "unknown_key"),
    }
    assert found(write("=")) == {("error", "invalid_toml")}


@pytest.mark.parametrize("name", ["another-pack", "ComfyUI-Impact-Pack"])
def test_a_node_class_that_no_pinned_pack_provides_is_an_error(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None], name: str
) -> None:
    workflow()
    snapshot(name, disabled=name == "ComfyUI-Impact-Pack")
    assert found(write(GOOD)) == {("error", "class_not_pinned")}


def test_a_pack_can_be_pinned_with_another_spelling(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow()
    snapshot("comfyui_impact_pack")
    assert found(write(GOOD)) == set()


def test_without_a_catalogue_an_unknown_class_is_only_a_note(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow(catalogue=False)
    snapshot()
    assert found(write(GOOD)) == {("note", "unknown_class"), ("note", "not_judged")}


def test_a_graph_that_comfyui_would_reject_is_an_error(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow(images=["9", 0])
    snapshot()
    assert ("error", "graph_invalid") in found(write(GOOD))


def test_a_workflow_that_does_not_load_is_an_error(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow('[inputs.seed]\npath = "9.inputs.seed"')
    snapshot()
    issues, _ = examine(write(GOOD))
    assert [s.level for s in issues if "inputs.seed.path" in s.where] == [Level.ERROR]


MODELS: list[tuple[str, set[tuple[str, str]]]] = [
    ("", {("error", "model_not_listed")}),
    ('models = [{folder = "loras", url = "https://h/a.safetensors"}]',
     {("error", "model_elsewhere"), ("note", "unused_model")}),
    ('models = [{repo = "owner/all"}]', {("warning", "model_not_listed")}),
    ('mounts = [{volume = "mine", path = "/mnt/mine"}]', {("warning", "model_not_listed")}),
    ('models = [{folder = "checkpoints", url = "https://h/a.safetensors"}, '
     '{folder = "vae", url = "https://h/b.pt"}]', {("note", "unused_model")}),
    ('models = [{folder = "checkpoints", url = "https://h/a.safetensors"}]\n'
     'preload = ["checkpoints/b.ckpt"]',
     {("error", "model_not_listed"), ("error", "not_preloadable")}),
    ('engine = "simulated"', {("warning", "simulated_engine")}),
]  # fmt: skip


@pytest.mark.parametrize(("deploy", "expected"), MODELS)
def test_models_in_workflows_are_checked_against_the_list(
    write: WriteProject,
    workflow: Callable[..., None],
    snapshot: Callable[..., None],
    deploy: str,
    expected: set[tuple[str, str]],
) -> None:
    workflow()
    snapshot()
    assert found(write(f'[deploy]\nnodes = "snapshot.json"\n{deploy}')) == expected


@pytest.mark.parametrize(
    ("text", "listed", "expected"),
    [
        ("embedding:neat", "", {("warning", "model_not_listed")}),
        ("embedding:neat", "embeddings", set[tuple[str, str]]()),
        ({"on": True, "lora": "neat.pt"}, "", {("error", "model_not_listed")}),
        ({"on": True, "lora": "neat.pt"}, "loras", set[tuple[str, str]]()),
        ({"on": False, "lora": "neat.pt"}, "", set[tuple[str, str]]()),
        (
            {"on": True, "lora": "neat.pt"},
            "vae",
            {("error", "model_elsewhere"), ("note", "unused_model")},
        ),
    ],
)
def test_models_in_prompts_and_rows_are_checked_against_the_list(
    write: WriteProject,
    workflow: Callable[..., None],
    snapshot: Callable[..., None],
    tmp_path: Path,
    text: Any,
    listed: str,
    expected: set[tuple[str, str]],
) -> None:
    workflow()
    snapshot()
    (file,) = tmp_path.glob("**/graph.json")
    graph = json.loads(file.read_text())
    graph["50"] = {"class_type": next(iter(graph.values()))["class_type"], "inputs": {"more": text}}
    file.write_text(json.dumps(graph))
    models = (
        f'[[deploy.models]]\nfolder = "{listed}"\nurl = "https://h/neat.pt"\n' if listed else ""
    )
    issues, _ = examine(write(f'[deploy]\nnodes = "snapshot.json"\n{models}'))
    about = {(str(i.level), i.code) for i in issues if "neat" in i.message or "50." in i.where}
    assert about == expected


SETTINGS: list[tuple[str, set[tuple[str, str]]]] = [
    ('snapshot = "off"\npreload = ["checkpoints/a.safetensors"]',
     {("warning", "preload_without_snapshot")}),
    ('snapshot = "gpu"', {("note", "gpu_snapshot_is_alpha")}),
    ('snapshot = "gpu"\ngpu = "H100:2"',
     {("error", "gpu_snapshot_of_several_gpus"), ("note", "gpu_snapshot_is_alpha")}),
    ('snapshot = "gpu"\ngpu = ["L4", "T4"]',
     {("note", "snapshot_per_gpu"), ("note", "gpu_snapshot_is_alpha")}),
    ('after_restore = ["ComfyUI-Impact-Pack"]', set()),
    ('after_restore = ["Impact"]', {("error", "unknown_pack")}),
    ('snapshot = "off"\nafter_restore = ["ComfyUI-Impact-Pack"]',
     {("warning", "after_restore_without_cpu_snapshot")}),
    ("min_containers = 2", {("warning", "paid_while_idle")}),
    ("buffer_containers = 4", {("warning", "buffer_without_room")}),
    ("max_attempts = 3\ntimeout = 40000", {("note", "long_attempts")}),
    ('auth = "none"', {("warning", "open_to_all")}),
    ('keys_secret = "keys"', {("warning", "unused_keys")}),
    ('auth = "keys"\nkeys_secret = "keys"', set()),
    ('warm_up = "art"', set()),
    (f'comfyui = "{COMMIT}"', set()),
    (f'comfyui = "{"2" * 40}"', set()),
    ('[[deploy.models]]\nfolder = "vae"\ncivitai = 3\nname = "v.txt"',
     {("warning", "token_without_secret")}),
]  # fmt: skip


@pytest.mark.parametrize(("deploy", "expected"), SETTINGS)
def test_settings_that_contradict_each_other_are_reported(
    write: WriteProject,
    workflow: Callable[..., None],
    snapshot: Callable[..., None],
    deploy: str,
    expected: set[tuple[str, str]],
) -> None:
    workflow()
    snapshot()
    assert found(write(GOOD.replace("[deploy]", f"[deploy]\n{deploy}", 1)
                       if not deploy.startswith("[[") else GOOD + deploy)) == expected  # fmt: skip


def test_the_settings_to_paste_are_valid_and_end_their_issues(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow()
    snapshot()
    tried: set[str] = set()
    for deploy, _ in SETTINGS:
        project = tomllib.loads(GOOD)
        project["deploy"] |= {} if deploy.startswith("[[") else tomllib.loads(deploy)
        for issue in examine(write(tomlkit.dumps(project)))[0]:
            if issue.fix.startswith("[deploy]\n"):
                fixed = {"deploy": project["deploy"] | tomllib.loads(issue.fix)["deploy"]}
                left = examine(write(tomlkit.dumps(fixed)))[0]
                assert issue.code not in {each.code for each in left}
                tried.add(issue.code)
    assert tried >= {"open_to_all", "preload_without_snapshot", "gpu_snapshot_of_several_gpus"}


def test_a_short_commit_of_a_pack_is_a_warning_that_says_how_to_complete_it(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow()
    snapshot(hash=COMMIT[:8])
    (issue,) = [s for s in examine(write(GOOD))[0] if s.code == "short_commit"]
    assert issue.level is Level.WARNING
    assert "ComfyUI-Impact-Pack" in issue.where
    assert "--write-back" in issue.message


def test_issues_of_a_pool_name_its_table_and_shared_ones_come_once(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow()
    snapshot()
    pool = '[deploy.pools.big]\nworkflows = ["art"]\nsnapshot = "gpu"\ngpu = "H100:2"\n'
    file = write(GOOD.replace("[[deploy", f'{pool}preload = ["loras/b.safetensors"]\n[[deploy'))
    issues = examine(file)[0]
    assert {(issue.code, issue.where) for issue in issues} == {
        ("gpu_snapshot_of_several_gpus", "deploy.pools.big.gpu"),
        ("gpu_snapshot_is_alpha", "deploy.pools.big.snapshot"),
        ("model_not_listed", "deploy.preload"),
    }
    assert len(issues) == 3


def test_a_warm_up_that_needs_an_input_is_an_error(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow('[inputs.model]\npath = "1.inputs.ckpt_name"\nrequired = true')
    snapshot()
    text = GOOD.replace("[deploy]", '[deploy]\nwarm_up = "art"')
    assert ("error", "warm_up_needs_inputs") in found(write(text))


def test_a_snapshot_that_contradicts_the_settings_is_an_error(
    write: WriteProject, workflow: Callable[..., None], tmp_path: Path
) -> None:
    workflow()
    (tmp_path / "snapshot.json").write_text(json.dumps({"comfyui": COMMIT}))
    text = GOOD.replace("[deploy]", f'[deploy]\ncomfyui = "{"2" * 40}"')
    assert ("error", "comfyui_conflict") in found(write(text))


PROBED = Probe(
    classes={
        "CheckpointLoaderSimple": "nodes", "SaveImage": "nodes", "ImpactNode": "custom_nodes.x",
    },
    packs={"x": None, "broken": "ImportError: no module named cv2"},
    touched=[
        {"pack": "x", "function": "is_available", "where": "x/__init__.py:3", "refused": False},
        {"pack": "y", "function": "get_device_name", "where": "y/__init__.py:1", "refused": True},
        {"pack": "z", "function": "current_device", "where": "z/__init__.py:1", "refused": False},
    ],
    open_files={"x": ["socket 127.0.0.1:1"]},
)  # fmt: skip


def test_issues_of_loading_name_the_pack(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow()
    snapshot("x")
    file = write(GOOD)
    issues = {(s.level.value, s.code, s.where) for s in examine(file, probe=PROBED)[0]}
    assert issues == {
        ("error", "pack_not_loaded", "broken"),
        ("warning", "cuda_touched_in_load", "x"),
        ("error", "cuda_touched_in_load", "y"),
        ("warning", "open_after_load", "x"),
    }
    deferred = write(GOOD.replace("[deploy]", '[deploy]\nsnapshot = "off"'))
    assert found(deferred, probe=PROBED) == {("error", "pack_not_loaded")}


def test_a_paid_node_needs_a_secret_with_its_key(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow()
    snapshot()
    paid = replace(
        PROBED, classes={"ImpactNode": "comfy_api_nodes.nodes_x"}, packs={}, touched=[],
        open_files={},
    )  # fmt: skip
    assert found(write(GOOD), probe=paid) == {("error", "api_key_missing")}
    named = write(GOOD.replace("[deploy]", '[deploy]\napi_key_secret = "comfy-org"'))
    assert found(named, probe=paid) == set()


def test_a_comfyui_that_cannot_run_a_job_is_an_error_with_the_reason(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow()
    snapshot()
    probe = replace(
        PROBED, classes={}, packs={}, touched=[], open_files={},
        own_failures=["nodes_audio.py"], self_test="ComfyUI 0.99.0 cannot run a job: KeyError",
    )  # fmt: skip
    issues = {(s.level.value, s.code, s.where): s.message
                for s in examine(write(GOOD), probe=probe)[0]}  # fmt: skip
    assert set(issues) == {
        ("error", "comfyui_cannot_run", "ComfyUI"),
        ("warning", "core_nodes_missing", "nodes_audio.py"),
    }
    assert "KeyError" in issues["error", "comfyui_cannot_run", "ComfyUI"]


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(
        build_app(), ["doctor", *map(str, arguments)], env={"COMFYUI_PATH": None}
    )
    return result.exit_code, result.stdout


def test_errors_exit_with_1_and_with_strict_so_do_warnings(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow()
    snapshot()
    good = write(GOOD)
    assert run("--project", good)[0] == 0
    assert run("--project", good, "--strict")[0] == 0
    open_to_all = write(GOOD.replace("[deploy]", '[deploy]\nauth = "none"'))
    code, said = run("--project", open_to_all)
    assert code == 0
    assert "open_to_all" in said
    assert run("--project", open_to_all, "--strict")[0] == 1
    assert run("--project", write(GOOD.replace("[deploy]", '[deploy]\ngpu = "X"')))[0] == 1


def test_json_has_level_and_code(write: WriteProject) -> None:
    code, said = run("--project", write('[deploy]\ngpu = "X"'), "--json")
    assert code == 1
    (issue,) = json.loads(said)
    assert (issue["level"], issue["code"]) == ("error", "unknown_gpu")


def test_a_comfyui_that_cannot_be_loaded_is_an_error_beside_all_others(
    write: WriteProject,
    workflow: Callable[..., None],
    snapshot: Callable[..., None],
    tmp_path: Path,
) -> None:
    workflow()
    snapshot()
    file = write(GOOD.replace("a.safetensors", "b.safetensors"))
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: no module named torch' >&2\nexit 1\n")
    python.chmod(0o755)
    for interpreter, reason in ((python, "ImportError"), (tmp_path / "gone", "No such file")):
        options = ("--comfyui", tmp_path, "--python", interpreter)
        code, said = run("--project", file, *options, "--json")
        issues = {issue["code"]: issue["message"] for issue in json.loads(said)}
        assert code == 1
        assert {"comfyui_not_loaded", "model_not_listed"} <= issues.keys()
        assert reason in issues["comfyui_not_loaded"]


def test_the_example_deployment_has_no_errors_or_warnings() -> None:
    issues, _ = examine(ROOT / "comfysnap.toml")
    assert [issue for issue in issues if issue.level is not Level.NOTE] == []


def test_an_unknown_default_is_an_error_beside_notes_on_a_workflow(
    write: WriteProject, workflow: Callable[..., None], snapshot: Callable[..., None]
) -> None:
    workflow(catalogue=False)
    snapshot()
    issues = found(write(f'default = "nope"\n{GOOD}'))
    assert issues >= {("note", "not_judged"), ("error", "unknown_workflow")}
