"""The examples in the docstrings of the client's public surface exist and run."""

import ast
import asyncio
import inspect
import re
import textwrap
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import comfysnap_client
from comfysnap_client import ComfysnapError, blocking, testing
from comfysnap_schema.wire import ErrorCode, Kind, Problem
from comfysnap_schema.workflows.flux import FluxInput, FluxOutput

PUBLIC = comfysnap_client.__all__
FULL = comfysnap_client.APIError(Problem(title="full", code=ErrorCode.QUEUE_FULL))
DEPRECATED = {"is_slow"}
MODULES = [comfysnap_client, testing, blocking]


def documented() -> Iterator[tuple[str, Any]]:
    """The public classes and functions, and the methods of those classes."""
    for module in MODULES:
        for name in module.__all__:
            thing = getattr(module, name)
            where = f"{module.__name__}.{name}"
            if inspect.isclass(thing) or inspect.isfunction(thing):
                yield where, thing
            if inspect.isclass(thing) and thing.__module__.startswith("comfysnap_client"):
                for method, function in inspect.getmembers(
                    thing, lambda member: inspect.isfunction(member) or inspect.ismethod(member)
                ):
                    ours = function.__module__.startswith("comfysnap_client")
                    if ours and not method.startswith("_") and method not in DEPRECATED:
                        yield f"{where}.{method}", function


THINGS = dict(documented())


def examples(text: str) -> list[str]:
    """The indented blocks after a line that ends with ``::``, and ``Example:`` lines."""
    found = re.findall(r"^.*::\n\n((?:    .*\n|\n)+)", f"{text}\n", re.MULTILINE)
    found += re.findall(r"^ .*::\n\n((?: {8}.*\n|\n)+)", f"{text}\n", re.MULTILINE)
    found += re.findall(r"^Example: ``(.+)``$", text, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in found]


def doc_of(thing: Any) -> str:
    """The docstring, or the one that it refers to."""
    text = inspect.getdoc(thing) or ""
    if refers := re.match(r"Like ``(comfysnap_client\.\w+\.\w+)``", text):
        return doc_of(THINGS[refers[1]])
    return text


@pytest.mark.parametrize("name", THINGS)
def test_every_public_name_shows_an_example(name: str) -> None:
    thing = THINGS[name]
    shown_by = [thing]
    if inspect.isclass(thing) and issubclass(thing, ComfysnapError):  # caught like their bases
        shown_by = [kind for kind in thing.__mro__ if issubclass(kind, ComfysnapError)]
    assert any(examples(doc_of(one)) for one in shown_by)


EXAMPLES = [
    (name, example)
    for name, thing in THINGS.items()
    for example in examples(inspect.getdoc(thing) or "")
]


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
async def test_an_example_runs(
    name: str, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://127.0.0.1:8000"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFYSNAP_URL", url)
    code = compile(example, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with testing.mock_server(url) as server:
        server.on(FluxInput).succeeds(FluxOutput(images=[server.image()]))
        async with server.client() as client:
            job = await client.infer_async(FluxInput(prompt="a fox"))
            output = await job.result()
            headers, body = server.webhook_request(job.id)
            names: dict[str, Any] = {
                "headers": headers, "body": body, "secret": server.webhook_secret,
                **{public: getattr(comfysnap_client, public) for public in PUBLIC},
                "FluxInput": FluxInput, "FluxOutput": FluxOutput, "Kind": Kind, "url": url,
                "mock_server": testing.mock_server, "server": server, "client": client,
                "job": job, "record": job.record, "saved_id": job.id, "output": output,
                "inputs": [FluxInput(prompt="a fox")], "error": FULL, "save_for_later": print,
                "asyncio": asyncio, "aclosing": aclosing,
            }  # fmt: skip
            if name.startswith("comfysnap_client.blocking"):
                await asyncio.to_thread(run_blocking, code, names)
            elif inspect.iscoroutine(running := eval(code, names)):  # noqa: S307 -- our docstrings
                await running


def run_blocking(code: CodeType, names: dict[str, Any]) -> None:
    with blocking.Client(names["url"]) as client:
        output = client.infer_sync(FluxInput(prompt="a fox"))
        eval(code, {**names, "Client": blocking.Client, "client": client, "output": output})  # noqa: S307 -- our docstrings
