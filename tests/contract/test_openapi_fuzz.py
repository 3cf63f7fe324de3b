"""What is documented is what is answered, whatever is asked."""

from pathlib import Path

import httpx
import pytest

from comfysnap_schema.workflow.apply import load_workflows
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.keys import hash_key, new_key
from comfysnap_server.gateway.settings import GatewaySettings
from tests.openapi_fuzz import Fuzzer, fuzz
from tests.paths import WORKFLOWS
from tests.servers import running

CASES = 400


@pytest.mark.parametrize("auth", ["none", "keys"])
def test_no_request_gets_an_undocumented_answer(tmp_path: Path, auth: str) -> None:
    key = new_key()
    settings = GatewaySettings.model_validate({
        "auth": auth, "keys": {"anna": hash_key(key)}, "max_sync_wait": 0.05, "max_wait": 0.05
    })  # fmt: skip
    bearers = (*[f"Bearer {key}"] * 9, "Bearer wrong", "Basic x", None)
    app = create_app(LocalBackend(tmp_path), load_workflows(WORKFLOWS), settings, default="hello")
    with running(app) as server, httpx.Client(base_url=server.url, timeout=30) as http:
        document = http.get("/openapi.json", headers={"Authorization": bearers[0] or ""}).json()
        report = fuzz(http, Fuzzer(document, 7, bearers if auth == "keys" else (None,)), CASES)
    assert report.faults == []
    assert report.job_ids
    assert len({line.partition(" ")[2] for line in report.answers}) >= 5
