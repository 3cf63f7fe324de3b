"""The check of the built site's links, on a small site with one of each kind."""

from pathlib import Path

import pytest

from docs.links import dead_links

PAGE = '<h1 id="top">x</h1><a href="other.html#there">good</a><img src="a.png">'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "other.html").write_text("<h2 id=there>y</h2><a href=index.html#top>good</a>")
    (tmp_path / "a.png").touch()
    return tmp_path


def test_a_site_without_dead_links_passes(site: Path) -> None:
    assert list(dead_links(site)) == []


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ('<a href="nowhere.html">', "nowhere.html"),
        ('<a href="../examples/nginx.conf">', "../examples/nginx.conf"),
        ('<a href="other.html#nowhere">', "other.html#nowhere"),
        ('<a class="x" href=#nowhere>', "#nowhere"),
        ('<script src="https://unpkg.com/x.js">', "loads https://unpkg.com/x.js"),
        ('<link rel="stylesheet" href="//fonts.example.com/x.css">', "loads //fonts.example.com"),
    ],
)
def test_a_dead_link_is_found(site: Path, wrong: str, found: str) -> None:
    (site / "index.html").write_text(PAGE + wrong, encoding="utf-8")
    (link,) = dead_links(site)
    assert link.startswith(f"index.html: {found}")


def test_links_to_other_sites_are_not_followed(site: Path) -> None:
    (site / "index.html").write_text(PAGE + '<a href="https://example.com/x">', encoding="utf-8")
    assert list(dead_links(site)) == []
