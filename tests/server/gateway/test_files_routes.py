import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.server.gateway.fakes import FakeBackend

CONTENT = bytes(range(256)) * 400
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.fixture
async def url(http: httpx.AsyncClient, backend: FakeBackend, tmp_path: Path) -> str:
    job = (await http.post("/infer_async", json={"prompt": "x"})).json()["id"]
    backend.add_output(tmp_path / "fox.png", CONTENT, "image/png")
    return f"/outputs/{job}/fox.png"


async def test_an_output_comes_whole_with_its_type_and_tag(
    http: httpx.AsyncClient, url: str
) -> None:
    answer = await http.get(url)
    assert answer.content == CONTENT
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"] == ETAG
    assert answer.headers["content-disposition"] == 'inline; filename="fox.png"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = await http.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(CONTENT))


@pytest.mark.parametrize(
    ("given", "part"),
    [("bytes=0-9", slice(0, 10)), ("bytes=100-", slice(100, None)),
     ("bytes=-5", slice(-5, None)), ("bytes=0-99999999", slice(0, None)),
     ("bytes=-99999999", slice(0, None))],
)  # fmt: skip
async def test_a_range_comes_alone(
    http: httpx.AsyncClient, url: str, given: str, part: slice
) -> None:
    answer = await http.get(url, headers={"Range": given})
    assert answer.status_code == 206
    assert answer.content == CONTENT[part]


@pytest.mark.parametrize(
    "given", ["bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6", "bytes=", "fox", "bytes=-"]
)
async def test_a_range_that_makes_no_sense_is_ignored(
    http: httpx.AsyncClient, url: str, given: str
) -> None:
    answer = await http.get(url, headers={"Range": given})
    assert (answer.status_code, answer.content) == (200, CONTENT)


@pytest.mark.parametrize("given", [f"bytes={len(CONTENT)}-", "bytes=999999999999-", "bytes=-0"])
async def test_a_range_past_the_end_is_refused(
    http: httpx.AsyncClient, url: str, given: str
) -> None:
    answer = await http.get(url, headers={"Range": given})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"


async def test_if_range_decides_between_the_rest_and_the_whole(
    http: httpx.AsyncClient, url: str
) -> None:
    part = await http.get(url, headers={"Range": "bytes=10-", "If-Range": ETAG})
    whole = await http.get(url, headers={"Range": "bytes=10-", "If-Range": '"other"'})
    assert (part.status_code, part.content) == (206, CONTENT[10:])
    assert (whole.status_code, whole.content) == (200, CONTENT)


@pytest.mark.parametrize("tag", [ETAG, f"W/{ETAG}", f'"a", {ETAG}', "*"])
async def test_a_known_output_is_not_sent_again(
    http: httpx.AsyncClient, url: str, tag: str
) -> None:
    answer = await http.get(url, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content) == (304, b"")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("fox.svg", "image/svg+xml"), ("fox.html", "text/html"), ("fox.xml", "application/xml")],
)
async def test_what_could_run_in_a_browser_is_a_sandboxed_download(
    http: httpx.AsyncClient, backend: FakeBackend, url: str, tmp_path: Path, name: str, kind: str
) -> None:
    backend.add_output(tmp_path / name, b"<script>alert(1)</script>", kind)
    answer = await http.get(url.replace("fox.png", name))
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["content-security-policy"]


async def test_a_strange_name_stays_inside_its_header(
    http: httpx.AsyncClient, backend: FakeBackend, url: str, tmp_path: Path
) -> None:
    name = 'f"o\nx é.png'
    backend.add_output(tmp_path / name, b"x", "image/png")
    answer = await http.get(url.replace("fox.png", "f%22o%0Ax%20%C3%A9.png"))
    assert answer.status_code == 200
    expected = "inline; filename*=utf-8''f%22o%0Ax%20%C3%A9.png"
    assert answer.headers["content-disposition"] == expected


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "fox.jpg", "%00"])
async def test_an_unknown_output_is_404(http: httpx.AsyncClient, url: str, name: str) -> None:
    answer = await http.get(url.replace("fox.png", name))
    assert answer.status_code == 404
    assert answer.json()["code"] in ("unknown_output", "not_found")


async def test_a_file_that_is_gone_has_expired(
    http: httpx.AsyncClient, url: str, tmp_path: Path
) -> None:
    (tmp_path / "fox.png").unlink()
    answer = await http.get(url)
    assert (answer.status_code, answer.json()["code"]) == (410, "output_expired")


async def test_an_upload_is_known_by_its_hash(http: httpx.AsyncClient) -> None:
    path = f"/files/{hashlib.sha256(CONTENT).hexdigest()}"
    assert (await http.head(path)).status_code == 404
    assert (await http.put(path, content=CONTENT)).status_code == 204
    assert (await http.put(path, content=CONTENT)).status_code == 204
    assert (await http.head(path)).status_code == 200


async def test_an_upload_with_another_hash_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.put(f"/files/{'0' * 64}", content=CONTENT)
    assert (answer.status_code, answer.json()["code"]) == (422, "hash_mismatch")


@pytest.mark.parametrize("digest", ["x", "0" * 63, "A" * 64, "..%5c" + "0" * 64])
async def test_an_upload_under_no_hash_is_refused(http: httpx.AsyncClient, digest: str) -> None:
    answer = await http.put(f"/files/{digest}", content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_file")


async def test_an_upload_above_the_limit_is_refused_announced_or_not(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield bytes(64 * 1024)

    for content in (chunks(), bytes(1024 * 1024 + 1)):
        answer = await http.put(f"/files/{'0' * 64}", content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "file_too_large")
    assert not backend.files


@pytest.mark.parametrize(
    "kind", ["image/png\r\nSet-Cookie: a=b", "image/png\n", "png", "", "text/html; a\x00b"]
)
async def test_a_content_type_that_is_none_is_not_sent(
    http: httpx.AsyncClient, backend: FakeBackend, url: str, tmp_path: Path, kind: str
) -> None:
    backend.add_output(tmp_path / "note", CONTENT, kind)
    answer = await http.get(url.replace("fox.png", "note"))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.content == CONTENT
