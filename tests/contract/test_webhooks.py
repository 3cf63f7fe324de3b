"""docs/guides/webhooks.md, run as it stands, with ``comfysnap serve`` as a process."""

import json
import re
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

import httpx
import pytest

from tests.contract.processes import COMMAND, environment, new_mark, serving
from tests.paths import ROOT, WORKFLOWS
from tests.receiver import SECRET, receiving

DOCUMENT = (ROOT / "docs" / "guides" / "webhooks.md").read_text(encoding="utf-8")


def block(words: str) -> str:
    """The Python block with these words."""
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if words in text]
    return found


def project(folder: Path, table: str) -> str:
    (folder / "comfysnap.toml").write_text(
        f'workflows = "{WORKFLOWS}"\ndefault = "hello"\n[serve.webhooks]\n{table}\n'
    )
    return f"--project={folder}"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("COMFYSNAP_WEBHOOK_SECRET", SECRET)
    given = project(tmp_path, 'hosts = ["127.0.0.1"]')
    with serving(new_mark(), tmp_path / "data", given) as (_, url):
        yield url


@contextmanager
def receiver_of_the_document(folder: Path) -> Generator[tuple[str, IO[str]]]:
    """Its address, and what it prints."""
    (folder / "receiver.py").write_text(block("FastAPI"))
    process = subprocess.Popen(
        [sys.executable, "-um", "uvicorn", "receiver:app", "--port=0"], cwd=folder,
        env=environment("none"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = ""
        while not (found := re.search(r"http://127.0.0.1:\d+", said)):
            said = process.stderr.readline()
            assert said, "the receiver did not start"
        yield f"{found[0]}/comfysnap", process.stdout
    finally:
        process.kill()
        process.communicate()


def test_the_receiver_of_the_document_gets_a_job(url: str, tmp_path: Path) -> None:
    with receiver_of_the_document(tmp_path) as (address, printed):
        forged = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,x"}
        assert httpx.post(address, headers=forged).status_code == 401
        submit = block("client.infer_async(HelloInput(), webhook")
        submit = submit.replace("https://hooks.example.com/comfysnap", address)
        program = (
            "import asyncio\nfrom comfysnap_client import Client\n"
            "from comfysnap_schema.workflows.hello import HelloInput\n"
            "async def main():\n    async with Client.from_env() as client:\n"
            f"        {submit}        print(job.id)\nasyncio.run(main())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment("none") | {"COMFYSNAP_URL": url},
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        job_id = done.stdout.strip()
        lines = iter(printed.readline, "")
        (line,) = islice((line for line in lines if job_id in line), 1)
        job = httpx.get(f"{url}/check_status/{job_id}").json()
        assert line == f"{job_id} {[file['url'] for file in job['outputs']['images']]}\n"


def test_the_test_of_the_document_passes(tmp_path: Path) -> None:
    (tmp_path / "test_receiver.py").write_text(block("comfysnap_server"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:xdist"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "1 passed" in done.stdout


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments], env=environment("none") | variables, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def test_what_happened_is_listed_and_sent_again_while_the_server_runs(
    url: str, tmp_path: Path
) -> None:
    data = f"--data={tmp_path / 'data'}"
    assert run("webhooks", "list", data).stdout == "no webhooks\n"
    with receiving() as receiver:
        answer = httpx.post(f"{url}/infer_sync", params={"webhook": receiver.url}, json={})
        job_id = answer.json()["id"]
        receiver.wait(1)
        done = run("webhooks", "resend", job_id, data)
        assert (done.returncode, done.stdout) == (0, f"{job_id} is sent again to 127.0.0.1\n")
        first, second = receiver.wait(2)
        assert first == second
    (listed,) = json.loads(run("webhooks", "list", "--json", data).stdout)
    assert (listed["job"], listed["url"]) == (job_id, receiver.url)
    assert job_id in run("webhooks", "list", data).stdout
    assert run("webhooks", "list", "--failed", data).stdout == "no webhooks\n"
    for words in (("list", f"--data={tmp_path / 'nowhere'}"), ("resend", "job_x", data)):
        failed = run("webhooks", *words)
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: ")


def test_a_new_secret_is_one_that_the_server_takes(tmp_path: Path) -> None:
    first, second = (run("webhooks", "secret").stdout for _ in range(2))
    assert first != second
    (secret,) = re.findall(r"^export COMFYSNAP_WEBHOOK_SECRET='(whsec_[\w+/]+=*)'\n$", first)
    given = project(tmp_path, 'hosts = ["127.0.0.1"]')
    served = "serve", given, "--engine=simulated", "--port=0", f"--data={tmp_path / 'data'}"
    for wrong in ({}, {"COMFYSNAP_WEBHOOK_SECRET": "sesame"}):
        refused = run(*served, **wrong)
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1
        assert "secret" in refused.stderr
        assert "sesame" not in refused.stderr
    taken = run(*served, "--until-stdin-closes", COMFYSNAP_WEBHOOK_SECRET=secret)
    assert (taken.returncode, "comfysnap is running" in taken.stdout) == (0, True)


def test_a_wrong_table_is_reported_with_its_place(tmp_path: Path) -> None:
    given = project(tmp_path, 'hosts = ["https://a.example"]\nhots = []')
    refused = run("serve", given, "--engine=simulated")
    assert refused.returncode == 2
    for words in ("serve.webhooks.hots", "serve.webhooks.hosts"):
        assert words in refused.stderr
