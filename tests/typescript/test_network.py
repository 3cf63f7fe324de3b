"""The TypeScript client over networks that break, and what the compiler accepts."""

from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tests.typescript.conftest import CLIENT, EXAMPLE, RunNode


@pytest.fixture(scope="module")
def results(run_node: RunNode) -> dict[str, Any]:
    return run_node("network")


def test_a_broken_download_continues_where_it_stopped(results: dict[str, Any]) -> None:
    assert results["resumed"]["text"] == "0123456789"
    first, second = results["resumed"]["requests"]
    assert "range" not in first["headers"]
    assert (second["headers"]["range"], second["headers"]["if-range"]) == ("bytes=3-", '"x"')


def test_a_download_that_starts_over_is_not_doubled(results: dict[str, Any]) -> None:
    assert results["restarted"]["text"] == "0123456789"


@pytest.mark.parametrize("which", ["corrupt", "longer"])
def test_a_download_is_verified(results: dict[str, Any], which: str) -> None:
    assert results[which]["text"].startswith("DownloadFailed: a.txt: ")


def test_an_expired_file_is_an_error(results: dict[str, Any]) -> None:
    assert results["expired"]["text"] == "OutputExpired: No"
    assert len(results["expired"]["requests"]) == 1


def test_keys_are_sent_to_this_server_only(results: dict[str, Any]) -> None:
    (stored,) = results["elsewhere"]["requests"]
    assert stored["path"] == "GET https://store.test/a?signature=x"
    assert "authorization" not in stored["headers"]
    (own,) = results["escaping"]["requests"]
    assert own["path"] == "GET http://server.test/base/evil.test/a"
    assert own["headers"]["authorization"] == "Bearer sesame"


def test_events_go_on_after_a_lost_connection(results: dict[str, Any]) -> None:
    events = results["events"]
    assert events["types"] == ["status", "future", "output text", "output more", "done"]
    assert events["last"] == [None, "2"]
    assert events["version"] == 5


def test_events_are_polled_where_there_are_no_streams(results: dict[str, Any]) -> None:
    polled = results["polled"]
    assert polled["types"] == ["output text", "status", "progress", "output more", "done"]
    base = "GET http://server.test/base"
    assert polled["paths"] == [
        f"{base}/events/job_1", f"{base}/check_status/job_1",
        *[f"{base}/check_status/job_1?wait=25.000&after=2"] * 2,
    ]  # fmt: skip


def test_a_connection_without_data_counts_as_broken(results: dict[str, Any]) -> None:
    message = "ConnectionFailed: timed out waiting for data from the server"
    assert results["silent"] == {"error": message, "requests": 4}
    assert results["stalled"] == message


def test_nothing_is_sent_for_an_aborted_signal(results: dict[str, Any]) -> None:
    assert results["aborted"]["requests"] == 0
    assert results["aborted"]["error"].startswith("AbortError: ")


def test_waiting_leaves_connections_for_other_calls(results: dict[str, Any]) -> None:
    assert results["slots"] == 4


def test_a_browser_follows_a_redirect_that_it_does_not_show(results: dict[str, Any]) -> None:
    assert results["opaque"] == {"redirects": ["manual", "follow"], "keys": 1}


def test_events_do_not_depend_on_chunk_boundaries(results: dict[str, Any]) -> None:
    assert results["parser"] == [
        {"data": "{\n}", "id": "7", "retry": 1500},
        {"data": "a\u2028b", "id": "7", "retry": 1500},
        {"data": "", "id": "7", "retry": 1500},
    ]


def test_invalid_arguments_are_refused(results: dict[str, Any]) -> None:
    assert results["arguments"] == [*["TypeError"] * 6, *["RangeError"] * 2]


def test_the_typing_cases_have_exactly_the_errors_that_they_expect(build: Path) -> None:
    """The build fails on an error, and on one that is expected and does not occur."""
    assert (build / "dist" / "typing.js").is_file()
    source = (build / "programs" / "typing.ts").read_text(encoding="utf-8")
    assert source.count("@ts-expect-error") >= 15


def test_the_readme_shows_the_example() -> None:
    shown = EXAMPLE.read_text(encoding="utf-8")
    assert f"```ts\n{shown}```" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"```ts\n{shown}```" in (CLIENT / "README.md").read_text(encoding="utf-8")
