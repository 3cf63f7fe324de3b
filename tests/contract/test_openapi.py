"""What jobs, events and webhooks are is what the OpenAPI document says."""

import base64
import json
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import httpx
import jsonschema_rs
import pytest

from comfysnap_schema.wire import webhook_key
from comfysnap_schema.workflow import load_workflows
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway import GatewaySettings, create_app
from comfysnap_server.jobs import WebhookSender, WebhookSettings
from tests.paths import WORKFLOWS
from tests.receiver import SECRET, Receiver, receiving
from tests.server.backends.suite import png
from tests.servers import running


@dataclass
class Server:
    http: httpx.Client
    document: dict[str, Any]
    receiver: Receiver

    def check(self, name: str, value: Any) -> None:
        """Fail unless the component of this name allows the value."""
        schema = {
            "$ref": f"#/components/schemas/{name}",
            "components": self.document["components"],
        }
        jsonschema_rs.validator_for(schema, validate_formats=True).validate(value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with receiving() as receiver:
        webhooks = WebhookSettings(hosts=("127.0.0.1",))
        backend = LocalBackend(
            tmp_path_factory.mktemp("data"),
            engine_options={"step_seconds": 0.001},
            webhooks=WebhookSender(webhooks, [webhook_key(SECRET)]),
        )
        app = create_app(
            backend, load_workflows(WORKFLOWS), GatewaySettings(webhooks=webhooks), default="hello"
        )
        with running(app) as served, httpx.Client(base_url=served.url, timeout=60) as http:
            yield Server(http, http.get("/openapi.json").json(), receiver)


def events_of(http: httpx.Client, job_id: str) -> Generator[tuple[str, dict[str, Any]]]:
    """The ``event`` and ``data`` of each event until the last."""
    kind = ""
    with http.stream("GET", f"/events/{job_id}") as stream:
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


@pytest.mark.parametrize("workflow", ["flux", "hello", "img2img", "sdxl", "video"])
def test_jobs_events_and_webhooks_are_as_documented(server: Server, workflow: str) -> None:
    image = {"data": base64.b64encode(png()).decode()}
    given = {"hello": {}, "img2img": {"prompt": "a fox", "image": image}}
    query = {"previews": "true", "webhook": server.receiver.url}
    before = len(server.receiver.bodies)
    answer = server.http.post(
        f"/infer_async/{workflow}", params=query, json=given.get(workflow, {"prompt": "a fox"})
    )
    assert answer.status_code == 202, answer.text
    job = answer.json()
    server.check(f"{workflow}_Job", job)
    kinds: set[str] = set()
    for kind, data in events_of(server.http, job["id"]):
        assert data["type"] == kind
        server.check("JobEvent", data)
        server.check(f"{kind.capitalize()}Event", data)
        kinds.add(kind)
    assert {"done", "output"} <= kinds
    done = server.http.get(f"/check_status/{job['id']}").json()
    assert done["status"] == "succeeded"
    server.check("Job", done)
    server.check(f"{workflow}_Output", done["outputs"])
    server.receiver.wait(before + 1)
    server.check("WebhookPayload", json.loads(server.receiver.bodies[before]))


def test_a_job_without_a_field_that_is_always_sent_is_not_as_documented(server: Server) -> None:
    job = server.http.post("/infer_sync/hello", json={"width": 16}).json()
    server.check("hello_Job", job)
    for name in job:
        with pytest.raises(jsonschema_rs.ValidationError):
            server.check("hello_Job", {key: job[key] for key in job if key != name})
    with pytest.raises(jsonschema_rs.ValidationError):
        server.check("hello_Job", {**job, "status": "paused"})
    with pytest.raises(jsonschema_rs.ValidationError):
        server.check("hello_Job", {**job, "outputs": {"images": ["a.png"]}})
