"""Model files are read ahead with several streams, within limits, and only where that gains."""

import threading
import types
from pathlib import Path
from typing import Any

import pytest

from comfysnap_server.engine.comfyui import readahead
from comfysnap_server.engine.comfyui.readahead import (
    CHUNK,
    SMALLEST,
    ModelFile,
    Piece,
    ReadAhead,
    is_local,
    is_slow,
    library_pieces,
    loader_nodes,
    model_files,
    model_pieces,
)
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import NewDriver, write_safetensors

GRAPH: Any = {
    "1": graphs.node("CheckpointLoaderSimple", ckpt_name="a.safetensors"),
    "2": graphs.node("Rows", row={"on": False, "lora": "off.safetensors"}),
    "3": graphs.node("CLIPTextEncode", text="embedding:tiny", clip=["1", 1]),
    "4": graphs.node("LoraLoader", lora_name="../../b.safetensors", model=["1", 0]),
    "5": graphs.node("OfAPack", weights="c.gguf"),
    "6": graphs.node("VAELoader", vae_name="gone.safetensors"),
    "7": graphs.node("CheckpointLoaderSimple", ckpt_name="d.safetensors"),
}


@pytest.fixture
def folders(tmp_path: Path) -> Any:
    """Something like ComfyUI's ``folder_paths``, with three files."""
    kinds = {kind: tmp_path / kind for kind in ("checkpoints", "loras", "vae", "of_a_pack")}
    for folder in kinds.values():
        folder.mkdir()
    for file in ("checkpoints/a.safetensors", "checkpoints/d.safetensors", "of_a_pack/c.gguf"):
        (tmp_path / file).write_bytes(b"1234")
    (tmp_path / "b.safetensors").write_bytes(b"1234")

    def get_full_path(kind: str, name: str) -> str | None:
        path = kinds[kind] / name
        return str(path) if path.is_file() else None

    return types.SimpleNamespace(folder_names_and_paths=kinds, get_full_path=get_full_path)


def test_the_files_of_a_job_are_those_that_its_nodes_load_from_their_folders(folders: Any) -> None:
    found = model_files(GRAPH, ["7", "6", "5", "4", "3", "2"], folders)
    assert [(Path(file.path).name, file.size) for file in found] == [
        ("d.safetensors", 4), ("c.gguf", 4)
    ]  # fmt: skip
    assert loader_nodes(GRAPH) == {"1", "5", "6", "7"}


def test_preloaded_files_are_not_read(folders: Any, tmp_path: Path) -> None:
    preloaded = [str(tmp_path / "checkpoints" / "a.safetensors")]
    assert model_files(GRAPH, ["1"], folders, preloaded=preloaded) == []


@pytest.fixture
def file(tmp_path: Path) -> ModelFile:
    """A file of several chunks and a part of one."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(3 * CHUNK + 5))
    return ModelFile(str(path), 3 * CHUNK + 5)


def read(file: ModelFile, budget: int = 1 << 30, mode: Any = "on", streams: int = 3) -> ReadAhead:
    ahead = ReadAhead(lambda: model_pieces([file], mode), lambda: budget, streams=streams)
    ahead.start()
    ahead.wait()
    return ahead


@pytest.mark.parametrize("streams", [1, 3, 8])
def test_every_byte_is_read_once(file: ModelFile, streams: int) -> None:
    ahead = read(file, streams=streams)
    assert ahead.bytes_read == file.size
    assert ahead.seconds is not None


def test_no_more_is_read_than_memory_may_hold(file: ModelFile) -> None:
    assert read(file, budget=2 * CHUNK + 1).bytes_read == 2 * CHUNK
    assert read(file, budget=0).seconds is None


def test_a_file_that_was_deleted_ends_the_reading_without_an_error(file: ModelFile) -> None:
    Path(file.path).unlink()
    assert read(file).bytes_read == 0
    assert read(file, mode="auto").bytes_read == 0


def test_after_a_stop_nothing_more_is_read(file: ModelFile) -> None:
    ahead = ReadAhead(lambda: model_pieces([file], "on"), lambda: 1 << 30)
    ahead.stop()
    ahead.start()
    ahead.wait()
    assert ahead.bytes_read == 0


def test_small_files_are_left_to_comfyui(file: ModelFile) -> None:
    assert read(ModelFile(file.path, SMALLEST - 1)).bytes_read == 0


def test_files_on_local_disks_and_fast_ones_are_left_to_comfyui(
    file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_local(file.path)
    assert read(file, mode="auto").bytes_read == 0
    monkeypatch.setattr(readahead, "LOCAL", frozenset[int]())
    assert not is_local(file.path)
    monkeypatch.setattr(readahead, "FAST", 1.0)  # a page cache is faster than a byte per second
    assert not is_slow([Piece(file.path, 0, CHUNK)])
    assert read(file, mode="auto").bytes_read == 0
    monkeypatch.setattr(readahead, "FAST", 1e15)
    assert read(file, mode="auto").bytes_read == file.size


def test_libraries_are_read_where_that_is_slow(
    file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [Piece(file.path, start * CHUNK, 4096) for start in range(3)]
    assert list(library_pieces(pieces, "on")) == pieces
    assert list(library_pieces(pieces, "auto")) == []
    monkeypatch.setattr(readahead, "LOCAL", frozenset[int]())
    monkeypatch.setattr(readahead, "FAST", 1.0)
    assert list(library_pieces(pieces, "auto")) == []
    monkeypatch.setattr(readahead, "FAST", 1e15)
    assert list(library_pieces(pieces, "auto")) == pieces


def test_what_cannot_be_read_is_logged_once_and_the_rest_is_left(
    file: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    Path(file.path).unlink()
    ahead = ReadAhead(lambda: model_pieces([file], "on"), lambda: 1 << 30)
    ahead.start()
    ahead.wait()
    assert ahead.bytes_read == 0
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "reading ahead ended early"
    ]


def test_without_a_thread_to_spare_nothing_is_read(
    file: ModelFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    caplog.set_level("INFO")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    ahead = ReadAhead(lambda: model_pieces([file], "on"), lambda: 1 << 30)
    ahead.start()
    assert ahead.bytes_read == 0
    assert "can't start new thread" in caplog.text


def test_a_job_reads_its_models_ahead_unless_they_are_loaded_or_it_is_off(
    new_driver: NewDriver, tmp_path: Path
) -> None:
    size = 2 * SMALLEST
    write_safetensors(tmp_path / graphs.CHECKPOINT, {"a.weight": bytes(size)})
    (tmp_path / "paths.yaml").write_text(f"test:\n    checkpoints: {tmp_path}\n")
    read_seconds: list[float | None] = []
    for mode in ("on", "off"):
        driver = new_driver()
        driver.load(read_ahead=mode, extra_model_paths=[str(tmp_path / "paths.yaml")])
        for seed in (1, 2):
            done, _ = driver.run(graphs.diffusion(seed=seed, steps=1000))
            assert done["status"] == "succeeded", done
            read_seconds.append(done["timings"]["read"])
    first, *others = read_seconds
    assert first is not None
    assert others == [None, None, None]
