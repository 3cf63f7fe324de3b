"""What `comfysnap serve` writes is for its own user."""

import os
import stat
import sys
from pathlib import Path

import httpx
import pytest

from tests.contract.processes import new_mark, serving

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def open_to_others(folder: Path) -> list[str]:
    """What another user can reach below ``folder``."""
    if not folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return []
    found = [str(folder)]
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            found += open_to_others(entry)
        elif entry.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            found.append(str(entry))
    return found


def run_a_job(data: Path) -> None:
    with serving(new_mark(), data) as (_, url):
        done = httpx.post(f"{url}/infer_sync/hello", json={"width": 32, "height": 32}, timeout=30)
        assert done.json()["status"] == "succeeded"
        upload = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
        assert httpx.put(f"{url}/files/{upload}", content=b"x").is_success


def test_a_new_data_folder_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        run_a_job(tmp_path / "data")
    finally:
        os.umask(old)
    assert open_to_others(tmp_path / "data") == []


def test_in_a_folder_that_others_can_enter_jobs_and_files_are_private(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    run_a_job(data)
    links = str(data / "packages")
    assert [found for found in open_to_others(data) if found != links] == [str(data)]
