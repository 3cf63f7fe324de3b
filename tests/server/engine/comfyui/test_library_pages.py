"""A fork that is thrown away finds the pages of libraries that a job touches."""

import mmap
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comfysnap_server.engine.comfyui.library_pages import (
    GAP,
    LARGEST_PIECE,
    LibraryPagesError,
    in_pieces,
    libraries,
    touched_pages,
)
from comfysnap_server.engine.comfyui.readahead import Piece, is_local
from comfysnap_server.engine.protocol import SCRATCH
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import REAL, NewDriver, paths_file
from tests.server.engine.comfyui.trees import LATEST, RELEASES

PAGE = os.sysconf("SC_PAGE_SIZE")
SIZE = 32 << 20
AROUND = 1 << 20
"""More than the kernel maps around a page that is touched."""

needs_page_map = pytest.mark.skipif(
    not Path("/proc/self/pagemap").exists(), reason="this kernel has no page map"
)


@pytest.fixture
def library(tmp_path: Path) -> Iterator[mmap.mmap]:
    """A file that this process has mapped to be executed, as the loader maps a library."""
    path = tmp_path / "library.so"
    path.write_bytes(bytes(SIZE))
    with path.open("rb") as file:
        mapped = mmap.mmap(
            file.fileno(), SIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC
        )
    with mapped:
        yield mapped


def pieces_of(pieces: list[Piece], name: str) -> list[Piece]:
    return [piece for piece in pieces if Path(piece.path).name == name]


@needs_page_map
def test_the_pages_that_a_job_touches_are_found_and_no_others(library: mmap.mmap) -> None:
    places = [SIZE // 4, SIZE // 2]

    def job(_: Path) -> None:
        assert [library[place] for place in places] == [0, 0]

    found = pieces_of(touched_pages(job), "library.so")
    for place in places:
        assert any(p.start <= place < p.start + p.size for p in found)
    for piece in found:
        assert any(abs(piece.start - p) < AROUND for p in places), found
        assert piece.size < AROUND


@needs_page_map
def test_what_the_job_does_stays_in_its_fork(
    library: mmap.mmap, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SCRATCH, "as before")
    before = set(Path("/proc/self/fd").iterdir())
    seen: list[Path] = []

    def job(folder: Path) -> None:
        seen.append(folder)
        (folder / "file").write_text(os.environ[SCRATCH])
        os.write(1, b"a line of a node")

    touched_pages(job)
    assert seen == []
    assert os.environ[SCRATCH] == "as before"
    assert capfd.readouterr() == ("", "")
    assert set(Path("/proc/self/fd").iterdir()) <= before


def _fail(_: Path) -> None:
    raise ValueError("the job failed")


def _hang(_: Path) -> None:
    signal.pause()


def _leave_a_child(_: Path) -> None:
    """The child holds the pipe for longer than the limit."""
    if os.fork() == 0:
        time.sleep(1)
    os._exit(0)


def _die(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _leave(_: Path) -> None:
    raise SystemExit(3)


@needs_page_map
@pytest.mark.parametrize(
    ("job", "limit", "reason"),
    [
        (_fail, 60.0, "ValueError: the job failed"),
        (_leave, 60.0, "SystemExit: 3"),
        (_hang, 0.05, "took longer than 0.05 s"),
        (_leave_a_child, 0.05, "took longer than 0.05 s"),
        (_die, 60.0, f"ended with -{signal.SIGKILL.value}"),
    ],
)
def test_a_fork_that_fails_or_hangs_is_ended_and_named(
    job: Callable[[Path], None], limit: float, reason: str
) -> None:
    with pytest.raises(LibraryPagesError) as raised:
        touched_pages(job, limit=limit)
    assert reason in str(raised.value)


def test_a_full_or_missing_temporary_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pagemap").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(LibraryPagesError) as raised:
        touched_pages(_die, proc=tmp_path)
    assert "missing" in str(raised.value)


def test_a_kernel_without_page_maps_is_named(tmp_path: Path) -> None:
    with pytest.raises(LibraryPagesError) as raised:
        touched_pages(_die, proc=tmp_path)
    assert "page map" in str(raised.value)


def test_pages_are_joined_over_small_gaps_and_cut_where_pieces_grow_large() -> None:
    step = GAP // PAGE
    assert list(in_pieces({"a": [7, 0, 1], "b": [5]})) == [
        Piece("a", 0, 8 * PAGE),
        Piece("b", 5 * PAGE, PAGE),
    ]
    assert list(in_pieces({"a": [0, 2 * step]})) == [
        Piece("a", 0, PAGE),
        Piece("a", 2 * step * PAGE, PAGE),
    ]
    cut = list(in_pieces({"a": range(2 * LARGEST_PIECE // PAGE + 1)}))
    assert [piece.size for piece in cut] == [LARGEST_PIECE, LARGEST_PIECE, PAGE]


def test_files_of_which_more_is_needed_are_read_first() -> None:
    pages = {"few": [0], "many": [0, 1, 2]}
    assert [piece.path for piece in in_pieces(pages)] == ["many", "few"]


@needs_page_map
@pytest.mark.parametrize("kind", [*RELEASES, REAL])
def test_an_engine_finds_the_pages_of_a_job_before_it_attaches(
    new_driver: NewDriver, tmp_path: Path, kind: str
) -> None:
    driver = new_driver(kind)
    loaded = driver.load(attach=False, read_ahead_libraries="on", custom_nodes=False)
    assert loaded == {"event": "loaded"}, driver.log
    facts = driver.facts()
    assert facts["report"]["library_bytes"] > 1 << 20
    assert (facts["device"], facts["unsafe_to_fork"]) == (None, [])
    assert list((tmp_path / "driver-0").glob("comfysnap-*")) == []
    assert driver.attach() == {"event": "attached"}
    done, _ = driver.run(graphs.hello())
    assert done["status"] == "succeeded", done


@needs_page_map
def test_the_pages_are_found_where_a_gpu_is_required_and_the_snapshot_has_none(
    new_driver: NewDriver,
) -> None:
    driver = new_driver()
    loaded = driver.load(attach=False, read_ahead_libraries="on", custom_nodes=False, device="cuda")
    assert loaded == {"event": "loaded"}, driver.log
    assert driver.facts()["report"]["library_bytes"] > 0
    assert driver.attach()["kind"] == "DeviceMissingError"  # of the process itself


@needs_page_map
def test_the_pages_are_found_on_the_cpu_where_there_is_a_gpu(new_driver: NewDriver) -> None:
    driver = new_driver(TREE_CUDA="1")
    loaded = driver.load(attach=False, read_ahead_libraries="on", custom_nodes=False)
    assert loaded == {"event": "loaded"}, driver.log
    facts = driver.facts()
    assert facts["report"]["library_bytes"] > 0
    assert facts["cuda_functions"] == [
        "is_available",
        "device_count",
        "_lazy_init",
        "current_device",
    ]
    assert driver.attach() == {"event": "attached"}
    assert driver.facts()["cpu_state"] == "GPU"


def test_a_process_in_which_node_packs_left_threads_is_not_forked(
    new_driver: NewDriver, tmp_path: Path
) -> None:
    driver = new_driver()
    paths = paths_file(LATEST, tmp_path)
    loaded = driver.load(read_ahead_libraries="on", extra_model_paths=[str(paths)])
    assert loaded == {"event": "loaded"}, driver.log
    facts = driver.facts()
    assert facts["unsafe_to_fork"]
    assert facts["report"]["library_bytes"] is None
    done, _ = driver.run(graphs.hello())
    assert done["status"] == "succeeded", done


@pytest.mark.parametrize("options", [{}, {"read_ahead_libraries": "off"}])
def test_the_pages_are_found_only_when_asked_for(
    new_driver: NewDriver, options: dict[str, str]
) -> None:
    driver = new_driver()
    loaded = driver.load(attach=False, custom_nodes=False, **options)
    assert loaded == {"event": "loaded"}, driver.log
    assert driver.facts()["report"]["library_bytes"] is None


@pytest.mark.skipif(
    not all(map(is_local, libraries())), reason="libraries are not on a local disk here"
)
def test_nothing_is_forked_where_all_libraries_are_on_local_disks(new_driver: NewDriver) -> None:
    driver = new_driver()
    loaded = driver.load(attach=False, custom_nodes=False, read_ahead_libraries="auto")
    assert loaded == {"event": "loaded"}, driver.log
    assert driver.facts()["report"]["library_bytes"] is None


def test_the_libraries_of_a_process_are_the_files_that_it_can_execute(
    library: mmap.mmap, tmp_path: Path
) -> None:
    assert library[0] == 0
    assert str(tmp_path / "library.so") in libraries()
    assert libraries(tmp_path) == set()
