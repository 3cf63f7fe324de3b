"""A comfysnap server inside the test process, for tests of code that uses the client.

Needs the extra ``testing`` (respx). With pytest, the fixture ``comfysnap_server`` is there::

    async def test_the_caption_is_kept(comfysnap_server: MockServer) -> None:
        comfysnap_server.on(FluxInput).succeeds(FluxOutput(images=[comfysnap_server.image()]))
        ...
        assert comfysnap_server.inputs_of(FluxInput)[0].prompt == "a fox"
"""

from collections.abc import Generator
from contextlib import contextmanager

from comfysnap_client.testing.jobs import Scenario
from comfysnap_client.testing.server import Call, MockServer

__all__ = ["Call", "MockServer", "Scenario", "mock_server"]


@contextmanager
def mock_server(url: str = "https://comfysnap.test") -> Generator[MockServer]:
    """Answer every request to ``url`` from memory; requests elsewhere are respx's to refuse.

    Args:
        url: The address that the code under test uses.
    """
    server = MockServer(url)
    with server.router:
        yield server
