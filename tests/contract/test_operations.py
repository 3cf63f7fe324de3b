"""The examples for operating a server: nginx in front of it, and a unit of systemd."""

import hashlib
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.contract.processes import new_mark, serving
from tests.paths import ROOT
from tests.servers import free_port

EXAMPLES = ROOT / "examples"
HOST = {"Host": "images.example.com"}
MAIN = """\
{user}
pid nginx.pid;
error_log error.log;
daemon off;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include site.conf;
}}
"""


@contextmanager
def nginx(folder: Path, upstream: str) -> Generator[tuple[str, str]]:
    """The example in front of a server; yields its http and https addresses."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", "key.pem", "-out", "certificate.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    plain, secure = free_port(), free_port()
    site = (EXAMPLES / "nginx.conf").read_text(encoding="utf-8")
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{plain};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{secure} ssl;"),
        ("127.0.0.1:8000", upstream.removeprefix("http://")),
        ("/etc/ssl/comfysnap", str(folder)),
    ):
        assert old in site
        site = site.replace(old, new)
    (folder / "site.conf").write_text(site)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(MAIN.format(user=user))
    process = subprocess.Popen(
        ["nginx", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL
    )
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as waiting:
            waiting.get(f"http://127.0.0.1:{plain}/")
        yield f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{secure}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nginx_passes_streams_uploads_ranges_and_the_host(tmp_path: Path) -> None:
    (tmp_path / "comfysnap.toml").write_text(
        f'workflows = "{ROOT / "workflows"}"\n[serve]\nhosts = ["images.example.com"]\n'
    )
    project = f"--project={tmp_path}"
    with (
        serving(new_mark(), tmp_path / "data", project, "--engine-option=step_seconds=0.2") as up,
        nginx(tmp_path, up[1]) as (plain, secure),
    ):
        moved = httpx.get(f"{plain}/workflows?x=1", headers=HOST)
        assert moved.status_code == 301
        assert moved.headers["location"] == "https://images.example.com/workflows?x=1"

        trust = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
        with httpx.Client(base_url=secure, headers=HOST, verify=trust, timeout=60) as client:
            assert client.get("/workflows", headers={"Host": "other"}).status_code == 403
            upload(client)
            job = client.post("/infer_async/flux", json={"prompt": "a fox", "steps": 20}).json()
            with client.stream("GET", f"/events/{job['id']}") as events:
                lines = (line for line in events.iter_lines() if line.startswith("data:"))
                first = next(lines)
                assert "succeeded" not in first
                now = client.get(f"/check_status/{job['id']}").json()
                assert now["status"] in ("queued", "running")
                *_, last = lines
            assert "succeeded" in last
            done = client.get(f"/check_status/{job['id']}?wait=25").json()
            part = client.get(done["outputs"]["images"][0]["url"], headers={"Range": "bytes=1-3"})
            assert (part.status_code, part.content) == (206, b"PNG")


def upload(client: httpx.Client) -> None:
    """Send more than nginx takes by default."""
    content = os.urandom(3 * 1024 * 1024)
    sent = client.put(f"/files/{hashlib.sha256(content).hexdigest()}", content=content)
    assert sent.status_code in (200, 201, 204), sent.text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_valid_for_systemd_and_its_command_for_comfysnap(tmp_path: Path) -> None:
    text = (EXAMPLES / "comfysnap.service").read_text(encoding="utf-8")
    found = re.search(r"^ExecStart=(\S+) (.+)$", text, re.M)
    assert found
    program = Path(sys.executable).with_name("comfysnap")
    unit = tmp_path / "comfysnap.service"
    unit.write_text(text.replace(found[1], str(program)))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")
    helped = subprocess.run(
        [program, "serve", "--help"], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip
    for option in re.findall(r"--[\w-]+", found[2]):
        assert option in helped.stdout
