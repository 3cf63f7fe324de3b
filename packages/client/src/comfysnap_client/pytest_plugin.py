"""The pytest fixture ``comfysnap_server``; imports nothing of weight until it is used."""

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from comfysnap_client.testing import MockServer


@pytest.fixture
def comfysnap_server(monkeypatch: pytest.MonkeyPatch) -> "Generator[MockServer]":
    """A mock server, which ``Client.from_env()`` finds."""
    from comfysnap_client.testing import mock_server

    with mock_server() as server:
        monkeypatch.setenv("COMFYSNAP_URL", server.url)
        yield server
