"""The pytest fixture ``comfysnap_server``; pytest loads this in every run, so imports are lazy."""

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from comfysnap_client.testing import MockServer


@pytest.fixture
def comfysnap_server(monkeypatch: pytest.MonkeyPatch) -> "Generator[MockServer]":
    """A mock server, with ``COMFYSNAP_URL`` set so that ``Client.from_env()`` uses it."""
    from comfysnap_client.testing import mock_server

    with mock_server() as server:
        monkeypatch.setenv("COMFYSNAP_URL", server.url)
        yield server
