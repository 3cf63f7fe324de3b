"""A comfysnap server in the test process, for tests of code that uses the client.

Requires the extra ``testing`` (respx). pytest gets the fixture ``comfysnap_server``::

    async def test_the_caption_is_kept(comfysnap_server: MockServer) -> None:
        comfysnap_server.on(FluxInput).succeeds(FluxOutput(images=[comfysnap_server.image()]))
        ...
        assert comfysnap_server.inputs_of(FluxInput)[0].prompt == "a fox"
"""

from collections.abc import Generator
from contextlib import contextmanager

from comfysnap_client.testing.jobs import Scenario
from comfysnap_client.testing.server import Call, MockServer, WebhookRequest

__all__ = ["Call", "MockServer", "Scenario", "WebhookRequest", "mock_server"]


@contextmanager
def mock_server(url: str = "https://comfysnap.test") -> Generator[MockServer]:
    """Answer all requests to ``url`` from memory; respx refuses requests to other URLs.

    Args:
        url: The base URL that the code under test uses.

    Example::

        with mock_server() as server:
            server.on(FluxInput).fails(ErrorCode.OUT_OF_MEMORY)
            async with server.client() as client: ...
    """
    server = MockServer(url)
    with server.router:
        yield server
