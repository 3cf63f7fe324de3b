import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from comfysnap_schema.cli import build_app
from comfysnap_schema.wire.errors import SchemaError
from comfysnap_server.deploy.deployment import read_deployment
from comfysnap_server.models.usage import model_references, unused_files
from tests.server.models.model_server import ModelServer, Served, safetensors, serve_models

WriteProject = Callable[[str], Path]

GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "xl\\base.safetensors"}},
    "2": {"class_type": "LoraLoader", "inputs": {"lora_name": "style.safetensors"}},
    "3": {"class_type": "PackLoader", "inputs": {"file": "deep/own.gguf", "text": "a fox"}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    "5": {
        "class_type": "Rows",
        "inputs": {
            "lora_1": {"on": True, "lora": "XL\\film.safetensors", "strength": 0.8},
            "lora_2": {"on": False, "lora": "sketch.safetensors"},
            "more": {"rows": [{"weights": "own.gguf"}]},
        },
    },
    "6": {
        "class_type": "Encode",
        "inputs": {"text": "a (embedding:XL\\neat:1.2), embedding:b.pt,"},
    },
}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serve_models() as server:
        yield server


NODES: dict[str, Any] = {
    "CheckpointLoaderSimple": {"input": {"required": {}}, "output": ["MODEL", "CLIP"]}
}


@pytest.fixture
def workflow(tmp_path: Path) -> Callable[[str], None]:
    """Writes a workflow with the parameters given."""

    def workflow(parameters: str) -> None:
        folder = tmp_path / "workflows" / "art"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "graph.json").write_text(json.dumps(GRAPH))
        (folder / "nodes.json").write_text(json.dumps(NODES))
        (folder / "workflow.toml").write_text(
            f'name = "art"\n{parameters}\n[outputs.images]\nnode = "4"\nkind = "image"\n'
        )

    return workflow


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build_app(), ["models", *map(str, arguments)])


def models(server: ModelServer, *names: str) -> str:
    return "".join(
        f'[[deploy.models]]\nurl = "{server.url}/{name}"\nfolder = "loras"\n' for name in names
    )


def test_sync_prints_the_size_downloads_and_then_has_nothing_to_do(
    write: WriteProject, server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = Served(safetensors(b"a" * 1500))
    file = write(models(server, "a.safetensors"))
    first = command("sync", "--project", file, "--to", tmp_path / "models")
    assert first.exit_code == 0, first.output
    assert "1 file to download, 1.6 kB" in first.output
    assert (tmp_path / "models" / "loras" / "a.safetensors").read_bytes() == safetensors(
        b"a" * 1500
    )
    second = command("sync", "--project", file, "--to", tmp_path / "models")
    assert second.exit_code == 0
    assert "0 files to download" in second.output


def test_a_sync_with_a_failed_download_exits_with_1_and_names_it(
    write: WriteProject, server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = Served(safetensors(b"a"))
    file = write(models(server, "a.safetensors", "none.safetensors"))
    result = command("sync", "--project", file, "--to", tmp_path / "models")
    assert result.exit_code == 1
    assert "none.safetensors" in result.output
    assert (tmp_path / "models" / "loras" / "a.safetensors").is_file()


def test_names_with_brackets_are_printed_verbatim(
    write: WriteProject, workflow: Callable[[str], None], server: ModelServer, tmp_path: Path
) -> None:
    workflow("")
    server.files["/%5Bv2%5D%20[/b].bin"] = Served(b"a")
    text = models(server, "%5Bv2%5D%20[/b].bin")
    file = write(text.replace('folder = "loras"', 'folder = "loras"\nname = "[v2] [/b].bin"'))
    result = command("sync", "--project", file, "--to", tmp_path / "models")
    assert result.exit_code == 0, result.output
    assert "loras/[v2] [/b].bin" in result.output
    assert "[v2] [/b].bin" in command("list", "--project", file, "--to", tmp_path / "models").output


def test_a_folder_that_is_a_file_is_an_error(
    write: WriteProject, server: ModelServer, tmp_path: Path
) -> None:
    file = write(models(server, "a.safetensors"))
    result = command("sync", "--project", file, "--to", file)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert str(file) in result.output


def test_an_empty_list_downloads_nothing(write: WriteProject, tmp_path: Path) -> None:
    result = command("sync", "--project", write(""), "--to", tmp_path / "models")
    assert result.exit_code == 0
    assert not (tmp_path / "models").exists()


def test_an_invalid_list_is_bad_input(write: WriteProject) -> None:
    result = command("list", "--project", write('[[deploy.models]]\nrepo = "a/b"\nfile = "c"'))
    assert isinstance(result.exception, SchemaError)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_sync_is_resumed(
    write: WriteProject, server: ModelServer, tmp_path: Path, how: signal.Signals
) -> None:
    content = safetensors(os.urandom(4_000_000))
    server.files["/a.safetensors"] = Served(content, hold_after=2_000_000)
    file = write(models(server, "a.safetensors"))
    comfysnap = Path(sys.executable).with_name("comfysnap")
    parts = tmp_path / "models" / ".comfysnap" / "parts"
    with subprocess.Popen(
        [comfysnap, "models", "sync", "--project", file, "--to", tmp_path / "models"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        begun = server.holding.wait(60)
        # then the download waits for bytes: all that was sent is written, but for a buffer
        while sum(part.stat().st_size for part in parts.glob("*.part")) < 1_900_000:
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"ended with {running.wait(0.02)}")
        running.send_signal(how)
        assert running.wait(60) == (130 if how is signal.SIGINT else -how)
    assert begun
    server.release.set()
    again = command("sync", "--project", file, "--to", tmp_path / "models")
    assert again.exit_code == 0, again.output
    assert re.fullmatch(r"bytes=\d+-", server.downloads("/a.safetensors")[-1].headers["Range"])
    assert (tmp_path / "models" / "loras" / "a.safetensors").read_bytes() == content


def listed(*arguments: str | Path) -> dict[str, dict[str, Any]]:
    result = command("list", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return {row["path"]: row for row in json.loads(result.stdout)}


def put(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


def test_list_shows_missing_used_and_unused_files(
    write: WriteProject, workflow: Callable[[str], None], server: ModelServer, tmp_path: Path
) -> None:
    workflow("")
    file = write(models(server, "style.safetensors", "spare.safetensors"))
    put(tmp_path / "models", "checkpoints/xl/base.safetensors", "vae/old.pt", "any/deep/own.gguf")
    rows = listed("--project", file, "--to", tmp_path / "models")
    assert {path: row["state"] for path, row in rows.items()} == {
        "checkpoints/xl/base.safetensors": "present",
        "any/deep/own.gguf": "present",
        "vae/old.pt": "unused",
        "loras/style.safetensors": "missing",
        "loras/spare.safetensors": "missing",
    }
    assert rows["loras/style.safetensors"]["used_by"] == ["art"]
    assert rows["loras/spare.safetensors"]["used_by"] == []
    table = command("list", "--project", file, "--to", tmp_path / "models")
    assert "unused" in table.output


def test_rm_deletes_given_files_and_unused_ones(
    write: WriteProject, workflow: Callable[[str], None], tmp_path: Path
) -> None:
    workflow("")
    file, root = write(""), tmp_path / "models"
    put(root, "checkpoints/xl/base.safetensors", "vae/old.pt", "loras/style.safetensors")
    options = ["--project", file, "--to", root, "--yes"]
    assert command("rm", "--unused", *options).exit_code == 0
    assert not (root / "vae" / "old.pt").exists()
    assert command("rm", "loras/style.safetensors", *options).exit_code == 0
    assert not (root / "loras" / "style.safetensors").exists()
    assert (root / "checkpoints" / "xl" / "base.safetensors").exists()
    assert command("rm", "loras/style.safetensors", *options).exit_code == 1
    assert command("rm", *options).exit_code == 2


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", ".comfysnap/record.json", ".."])
def test_rm_cannot_delete_outside_the_folder(
    write: WriteProject, tmp_path: Path, path: str
) -> None:
    put(tmp_path, "outside")
    result = command("rm", path, "--project", write(""), "--to", tmp_path / "models", "--yes")
    assert result.exit_code == 2
    assert (tmp_path / "outside").exists()


def test_rm_asks_first(
    write: WriteProject, workflow: Callable[[str], None], tmp_path: Path
) -> None:
    workflow("")
    put(tmp_path / "models", "vae/old.pt")
    result = command("rm", "vae/old.pt", "--project", write(""), "--to", tmp_path / "models")
    assert result.exit_code == 1
    assert (tmp_path / "models" / "vae" / "old.pt").exists()


def test_every_use_of_a_model_is_found(
    write: WriteProject, workflow: Callable[[str], None]
) -> None:
    workflow(
        '[inputs.lora]\npath = "2.inputs.lora_name"\n'
        'choices = ["style.safetensors", "b.safetensors"]'
    )
    (art,) = read_deployment(write("")).workflows.values()
    found = {(ref.place, ref.name, ref.folders) for ref in model_references(art)}
    assert found == {
        ("1.inputs.ckpt_name", "xl/base.safetensors", ("checkpoints",)),
        ("2.inputs.lora_name", "style.safetensors", ("loras",)),
        ("inputs.lora", "style.safetensors", ("loras",)),
        ("inputs.lora", "b.safetensors", ("loras",)),
        ("3.inputs.file", "deep/own.gguf", ()),
        ("5.inputs.lora_1.lora", "XL/film.safetensors", ("loras",)),
        ("5.inputs.lora_2.lora", "sketch.safetensors", ("loras",)),
        ("5.inputs.more.rows.0.weights", "own.gguf", ()),
        ("6.inputs.text", "XL/neat", ("embeddings",)),
        ("6.inputs.text", "b.pt", ("embeddings",)),
    }
    assert [ref.name for ref in model_references(art) if not ref.is_on] == ["sketch.safetensors"]


LORAS = '[inputs.loras]\ntype = "loras"\nafter = "1"\n'


def test_the_loras_that_callers_may_name_are_uses(
    write: WriteProject, workflow: Callable[[str], None]
) -> None:
    workflow(f'{LORAS}choices = ["b.safetensors"]')
    (art,) = read_deployment(write("")).workflows.values()
    (found,) = [ref for ref in model_references(art) if ref.place == "inputs.loras"]
    assert (found.name, found.folders) == ("b.safetensors", ("loras",))


@pytest.mark.parametrize(
    ("path", "is_used"),
    [
        ("loras/XL/film.safetensors", True),
        ("loras/film.safetensors", False),
        ("loras/sketch.safetensors", True),
        ("embeddings/XL/neat.safetensors", True),
        ("embeddings/XL/neat.pt", True),
        ("embeddings/neat.pt", False),
        ("embeddings/b.pt", True),
        ("embeddings/b.safetensors", False),
        ("any/own.gguf", True),
    ],
)
def test_a_file_that_a_row_or_a_prompt_names_is_used(
    write: WriteProject, workflow: Callable[[str], None], path: str, is_used: bool
) -> None:
    workflow("")
    workflows = list(read_deployment(write("")).workflows.values())
    assert bool(unused_files([PurePosixPath(path)], workflows, [])) is not is_used


@pytest.mark.parametrize(
    ("parameters", "unused"),
    [
        ("", {"loras/c.pt", "vae/d.pt"}),
        ('[inputs.lora]\npath = "2.inputs.lora_name"', {"vae/d.pt"}),
        ('[inputs.file]\npath = "3.inputs.file"', set[str]()),
        ('[inputs.rows]\npath = "5.inputs.lora_1"', {"vae/d.pt"}),
        ('[inputs.rows]\npath = "5.inputs.more"', set[str]()),
        ('[inputs.prompt]\npath = "6.inputs.text"', {"loras/c.pt", "vae/d.pt"}),
        (LORAS, {"vae/d.pt"}),
        (f'{LORAS}choices = ["b.pt"]', {"loras/c.pt", "vae/d.pt"}),
    ],
)
def test_a_file_that_callers_can_choose_is_not_unused(
    write: WriteProject, workflow: Callable[[str], None], parameters: str, unused: set[str]
) -> None:
    workflow(parameters)
    workflows = list(read_deployment(write("")).workflows.values())
    paths = [PurePosixPath(path) for path in ("loras/c.pt", "vae/d.pt", "vae/notes.txt")]
    assert set(map(str, unused_files(paths, workflows, []))) == unused
    assert "vae/d.pt" not in set(map(str, unused_files(paths, workflows, ["vae/d.pt"])))
