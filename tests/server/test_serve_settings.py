"""Limits of one owner, as ``[serve]`` sets them."""

from pathlib import Path

import pytest

from comfysnap_schema.wire import SchemaError
from comfysnap_schema.workflow import read_project
from comfysnap_server.backends.local import LocalLimits
from comfysnap_server.serve_settings import STORED_BYTES_PER_KEY, read_serve

ANNA, BEN = "a" * 64, "b" * 64


def limits(folder: Path, text: str) -> LocalLimits:
    file = folder / "comfysnap.toml"
    file.write_text(text)
    (folder / "workflows").mkdir(exist_ok=True)
    return read_serve(read_project(file)).local


def test_an_owner_of_keys_gets_half_of_the_queue_and_a_limit_on_the_disk(tmp_path: Path) -> None:
    shared = limits(tmp_path, '[serve]\nauth = "keys"\n')
    assert shared.max_unfinished_per_owner == shared.max_queued // 2
    assert shared.max_queued_bytes_per_owner == shared.max_queued_bytes // 2
    assert shared.max_stored_bytes_per_owner == STORED_BYTES_PER_KEY


def test_auth_that_replaces_the_setting_decides_about_the_limits(tmp_path: Path) -> None:
    (tmp_path / "workflows").mkdir()
    file = tmp_path / "comfysnap.toml"
    file.write_text("")
    settings = read_serve(read_project(file), "keys")
    assert settings.auth == "keys"
    assert settings.local.max_stored_bytes_per_owner == STORED_BYTES_PER_KEY


def test_limits_of_owners_that_are_set_count(tmp_path: Path) -> None:
    text = (
        f'[serve]\nauth = "keys"\n[serve.keys]\nanna = "{ANNA}"\nben = "{BEN}"\n'
        "[serve.local]\nmax_stored_bytes_per_owner = 1000\nmax_unfinished_per_owner = 3\n"
    )
    given = limits(tmp_path, text)
    assert (given.max_stored_bytes_per_owner, given.max_unfinished_per_owner) == (1000, 3)


def test_devices_and_workers_are_settings_of_the_local_backend(tmp_path: Path) -> None:
    file = tmp_path / "comfysnap.toml"
    (tmp_path / "workflows").mkdir()
    file.write_text('[serve.local]\ndevices = "0,1"\nworkers = 4\n')
    local = read_serve(read_project(file)).local
    assert (local.devices, local.workers) == ("0,1", 4)
    file.write_text('[serve.local]\ndevices = "0;1"\nworkers = 0\n')
    with pytest.raises(SchemaError) as caught:
        read_serve(read_project(file))
    assert "devices" in str(caught.value)
    assert "workers" in str(caught.value)


def test_without_keys_the_one_owner_may_fill_queue_and_disk(tmp_path: Path) -> None:
    free = limits(tmp_path, "")
    assert (free.max_unfinished_per_owner, free.max_stored_bytes_per_owner) == (None, None)
