"""The surfaces of a server, each as one way to make the same call."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import httpx2
import openai
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from comfysnap_client import NO_RETRY, APIError, blocking, untyped
from comfysnap_schema.wire import ImageFile
from comfysnap_server.gateway.mcp.results import ERROR_META
from tests.chromium import Page
from tests.typescript.conftest import RunNode

Inputs = Mapping[str, str | int]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One run of a workflow with an output ``images``."""

    url: str
    key: str
    workflow: str = "flux"
    inputs: Inputs = field(default_factory=dict[str, str | int])
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Refusal:
    """What a caller can branch on."""

    code: str
    field: str | None = None


Outcome = list[str] | Refusal
"""The SHA-256 of each image, or why there is none."""
Surface = Callable[[Call], Outcome]


def http(call: Call) -> Outcome:
    headers = {"Authorization": f"Bearer {call.key}"}
    if call.idempotency_key is not None:
        headers["Idempotency-Key"] = call.idempotency_key
    answer = httpx.post(
        f"{call.url}/infer_sync/{call.workflow}",
        json=dict(call.inputs),
        headers=headers,
        timeout=60,
    )
    body = answer.json()
    if answer.is_success:
        return [image["sha256"] for image in body["outputs"]["images"]]
    return Refusal(body["code"], body["fields"][0]["field"] if body["fields"] else None)


def python(call: Call) -> Outcome:
    with blocking.Client(call.url, api_key=call.key, timeout=60, retry=NO_RETRY) as client:
        inputs = untyped(call.workflow, call.inputs)
        try:
            output = client.infer_sync(inputs, idempotency_key=call.idempotency_key)
        except APIError as error:
            fields = error.problem.fields
            return Refusal(str(error.code), fields[0].field if fields else None)
        return [file.sha256 for file in output.values["images"] if isinstance(file, ImageFile)]


def typescript(run_node: RunNode) -> Surface:
    def run(call: Call) -> Outcome:
        sent = {"key": call.key, "workflow": call.workflow, "inputs": dict(call.inputs)}
        if call.idempotency_key is not None:
            sent["idempotencyKey"] = call.idempotency_key
        found = run_node("surface", call.url, json.dumps(sent))
        return found["images"] if "images" in found else Refusal(**found["refused"])

    return run


def openai_images(call: Call) -> Outcome:
    theirs = {"invalid_api_key": "unauthorized", "model_not_found": "unknown_workflow"}
    headers = {"Idempotency-Key": call.idempotency_key} if call.idempotency_key else {}
    others = {name: value for name, value in call.inputs.items() if name != "prompt"}
    with openai.OpenAI(base_url=f"{call.url}/v1", api_key=call.key, max_retries=0) as client:
        try:
            answer = client.images.generate(
                model=call.workflow, prompt=str(call.inputs["prompt"]), response_format="b64_json",
                extra_body=others, extra_headers=headers,
            )  # fmt: skip
        except openai.APIStatusError as error:
            field = None if error.param == "model" else error.param  # their name for the workflow
            return Refusal(theirs.get(str(error.code), str(error.code)), field)
    images = [base64.b64decode(image.b64_json or "") for image in answer.data or ()]
    return [hashlib.sha256(image).hexdigest() for image in images]


def mcp(call: Call) -> Outcome:
    return asyncio.run(_mcp(call))


async def _mcp(call: Call) -> Outcome:
    refused: list[str] = []

    async def note(answer: httpx2.Response) -> None:
        if answer.is_error:
            refused.append(json.loads(await answer.aread())["error"]["data"]["code"])

    meta: Any = {"comfysnap/idempotency_key": call.idempotency_key}
    headers = {"Authorization": f"Bearer {call.key}"}
    try:
        async with (
            httpx2.AsyncClient(
                headers=headers, timeout=60, event_hooks={"response": [note]}
            ) as http,
            Client(streamable_http_client(f"{call.url}/mcp", http_client=http)) as client,
        ):
            result = await client.call_tool(
                call.workflow, dict(call.inputs), meta=meta if call.idempotency_key else None
            )
    except Exception:
        if not refused:
            raise
        return Refusal(refused[0])  # before a tool was called
    if result.is_error:
        # a tool that does not exist is not a workflow that refuses
        meta_of_error: Any = result.meta or {}
        problem: dict[str, Any] = meta_of_error.get(ERROR_META, {"code": "unknown_workflow"})
        fields: list[dict[str, str]] = problem.get("fields", [])
        return Refusal(problem["code"], fields[0].get("field") if fields else None)
    content: Any = result.structured_content
    urls: list[str] = [image["url"] for image in content["outputs"]["images"]]
    async with httpx.AsyncClient() as links:
        images = [(await links.get(url)).content for url in urls]
    return [hashlib.sha256(image).hexdigest() for image in images]


_FRESH_TAB = """
window.refused = [];
const fetched = window.fetch;
window.fetch = async (...request) => {
  const answer = await fetched(...request);
  if (!answer.ok) refused.push(await answer.clone().json());
  return answer;
};
if (location.protocol !== "about:") sessionStorage.clear();
"""


def page(tab: Page) -> Surface:
    """The form of a workflow, filled in and sent as a person does, in a tab without a key."""
    tab.on_load(_FRESH_TAB)

    def run(call: Call) -> Outcome:
        if call.idempotency_key is not None:
            pytest.skip("the page makes its own idempotency keys")
        tab.open("about:blank")
        tab.open(f"{call.url}/w/{call.workflow}")
        tab.wait("document.querySelector('.access input')")
        tab.eval(
            f"refused.length = 0; document.querySelector('.access input').value = '{call.key}';"
            "document.querySelector('.access .primary').click()"
        )
        tab.wait("refused.length || document.querySelector('.run .primary')")
        if not tab.eval("refused.length"):
            for name, value in call.inputs.items():
                _fill(tab, name, str(value))
            tab.eval("document.querySelector('.run .primary').click()")
        invalid = "document.querySelector('.field:has([aria-invalid])')"
        done = "document.querySelector('.job')?.dataset.status === 'succeeded'"
        tab.wait(f"refused.length || {invalid} || {done}")
        if problem := tab.eval("refused[0]"):
            fields: list[dict[str, str]] = problem.get("fields", [])
            return Refusal(problem["code"], fields[0]["field"] if fields else None)
        if field := tab.eval(f"{invalid}?.dataset.field"):
            return Refusal("invalid_input", field)  # the page's own check, before it sends
        job = tab.eval("location.hash.slice(1)")
        headers = {"Authorization": f"Bearer {call.key}"}
        outputs = httpx.get(f"{call.url}/check_status/{job}", headers=headers).json()["outputs"]
        pictures = "[...document.querySelectorAll('.output img')].filter(one => one.naturalWidth)"
        tab.wait(f"{pictures}.length === {len(outputs['images'])}")
        return [image["sha256"] for image in outputs["images"]]

    return run


def _fill(tab: Page, name: str, value: str) -> None:
    control = f"document.querySelector('[data-field={name}] :is(textarea, input[type=text])')"
    if not tab.eval(f"Boolean({control})"):
        pytest.skip(f"the form has no field {name}")
    tab.eval(
        f"{control}.value = {json.dumps(value)};"
        f"{control}.dispatchEvent(new Event('input', {{bubbles: true}}))"
    )
