"""The same job from each surface: one meaning of keys, inputs, errors, limits and history.

For another surface, add a function to ``surfaces.py`` and its name to ``SURFACES``.
"""

import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from comfysnap_schema.wire import Scope
from comfysnap_schema.workflow import load_workflows
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.backends.protocol import NO_BUDGET, OwnerBudget, SubmitResult
from comfysnap_server.gateway import GatewaySettings, KeyRecord, create_app, hash_key, new_key
from comfysnap_server.gateway.keys import Keys
from comfysnap_server.jobs import WebhookSettings
from comfysnap_server.jobs.request import JobRequest
from tests.chromium import CHROMIUM, chromium
from tests.contract import surfaces
from tests.contract.surfaces import Call, Inputs, Refusal, Surface
from tests.paths import WORKFLOWS
from tests.servers import running
from tests.typescript import conftest as fixtures

node, tsc, build, run_node = fixtures.node, fixtures.tsc, fixtures.build, fixtures.run_node

SURFACES = ("http", "python", "typescript", "openai_images", "mcp", "page")
FOX: Inputs = {"prompt": "a fox", "seed": 7, "width": 256, "height": 256, "steps": 2}


@pytest.fixture(params=SURFACES)
def name(request: pytest.FixtureRequest) -> str:
    """The surface, which has an owner of its own with these keys."""
    return request.param


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Generator[Surface]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield surfaces.page(tab)
        assert tab.violations == []


@pytest.fixture
def surface(name: str, request: pytest.FixtureRequest) -> Surface:
    if name == "typescript":
        return surfaces.typescript(request.getfixturevalue("run_node"))
    if name == "page":
        return request.getfixturevalue("page")
    return getattr(surfaces, name)


LIMITS: dict[str, dict[str, Any]] = {
    "all": {},
    "read": {"scopes": (Scope.READ,)},
    "one": {"max_unfinished_jobs": 1},
    "minute": {"requests_per_minute": 1},
    "hook": {"webhook": "https://hooks.example.com/all"},
}
KEYS = {(owner, kind): new_key() for owner in SURFACES for kind in LIMITS}


class Recording(LocalBackend):
    """Keeps what it was asked to run."""

    requests: ClassVar[list[JobRequest]] = []

    async def submit(self, request: JobRequest, budget: OwnerBudget = NO_BUDGET) -> SubmitResult:
        self.requests.append(request)
        return await super().submit(request, budget)


@contextmanager
def serving(data: Path, step_seconds: float) -> Generator[str]:
    backend = Recording(data, engine_options={"step_seconds": step_seconds})
    webhooks = WebhookSettings(hosts=("hooks.example.com",))
    settings = GatewaySettings(auth="keys", max_body_bytes=4096, webhooks=webhooks)
    keys = Keys(
        KeyRecord(name=f"{owner} {kind}", owner=owner, hash=hash_key(key), **LIMITS[kind])
        for (owner, kind), key in KEYS.items()
    )
    app = create_app(backend, load_workflows(WORKFLOWS), settings, default="flux", keys=keys)
    with running(app) as server:
        yield server.url


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with serving(tmp_path_factory.mktemp("data"), 0) as url:
        yield url


@pytest.fixture(scope="module")
def slow_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with serving(tmp_path_factory.mktemp("data"), 1) as url:
        yield url


def bearer(owner: str, kind: str = "all") -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[owner, kind]}"}


def jobs_of(url: str, owner: str) -> list[dict[str, Any]]:
    return httpx.get(f"{url}/jobs", headers=bearer(owner)).json()["jobs"]


def test_one_job_has_the_same_row_and_the_same_images(
    url: str, name: str, surface: Surface
) -> None:
    plain = httpx.post(f"{url}/infer_sync/flux", json=dict(FOX), headers=bearer(name)).json()
    images = surface(Call(url=url, key=KEYS[name, "all"], inputs=FOX))
    found, expected = jobs_of(url, name)[:2]
    assert expected["id"] == plain["id"]
    same = ("workflow", "status", "inputs", "outputs", "labels", "error", "attempt", "graph_hash")
    for job in (found, expected):
        for image in job["outputs"]["images"]:
            assert image.pop("url").startswith(f"/outputs/{job['id']}/")
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}
    assert images == [image["sha256"] for image in expected["outputs"]["images"]]


def test_one_idempotency_key_is_one_job(url: str, name: str, surface: Surface) -> None:
    before = len(jobs_of(url, name))
    call = Call(
        url=url, key=KEYS[name, "all"], inputs={"prompt": "a fox"}, idempotency_key=uuid.uuid4().hex
    )
    first, again = surface(call), surface(call)
    assert isinstance(first, list)
    assert first == again
    assert len(jobs_of(url, name)) == before + 1
    other = Call(
        url=url, key=call.key, inputs={"prompt": "a cat"}, idempotency_key=call.idempotency_key
    )
    assert surface(other) == Refusal("idempotency_mismatch")
    assert len(jobs_of(url, name)) == before + 1


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({"prompt": "x", "width": 1}, "width"), ({"prompt": "x", "width": 300.5}, "width"),
        ({"prompt": "x", "seed": "many"}, "seed"), ({"prompt": "x", "steps": 51}, "steps"),
        ({"prompt": "x", "stepz": 4}, "stepz"),
    ],
)  # fmt: skip
def test_an_error_names_the_field_and_queues_nothing(
    url: str, name: str, surface: Surface, inputs: Inputs, field: str
) -> None:
    before = jobs_of(url, name)
    call = Call(url=url, key=KEYS[name, "all"], inputs=inputs)
    assert surface(call) == Refusal("invalid_input", field)
    assert jobs_of(url, name) == before


def test_what_a_key_may_not_do_is_refused(url: str, name: str, surface: Surface) -> None:
    for key, workflow, code in (
        (KEYS[name, "read"], "flux", "missing_scope"), (new_key(), "flux", "unauthorized"),
        (KEYS[name, "all"], "nothing", "unknown_workflow"),
    ):  # fmt: skip
        call = Call(url=url, key=key, workflow=workflow, inputs={"prompt": "x"})
        assert surface(call) == Refusal(code)


def test_the_limits_of_the_server_are_the_same(url: str, name: str, surface: Surface) -> None:
    call = Call(url=url, key=KEYS[name, "all"], inputs={"prompt": "x" * 5000})
    assert surface(call) == Refusal("body_too_large")


def test_the_webhook_of_a_key_is_that_of_its_jobs(url: str, name: str, surface: Surface) -> None:
    for kind in ("hook", "all"):
        surface(Call(url=url, key=KEYS[name, kind], inputs={"prompt": "x"}))
        request = Recording.requests[-1]
        assert (request.owner, request.webhook) == (name, LIMITS[kind].get("webhook"))


def test_a_budget_counts_the_jobs_of_all_surfaces(
    slow_url: str, name: str, surface: Surface
) -> None:
    long = {"prompt": "x", "steps": 50}
    job = httpx.post(f"{slow_url}/infer_async/flux", json=long, headers=bearer(name)).json()["id"]
    call = Call(url=slow_url, key=KEYS[name, "one"], inputs={"prompt": "x"})
    assert surface(call) == Refusal("quota_exceeded")
    httpx.post(f"{slow_url}/cancel/{job}", headers=bearer(name))
    minute = bearer(name, "minute")
    assert httpx.get(f"{slow_url}/limits", headers=minute).status_code == 200
    call = Call(url=slow_url, key=KEYS[name, "minute"], inputs={"prompt": "x"})
    assert surface(call) == Refusal("rate_limited")
