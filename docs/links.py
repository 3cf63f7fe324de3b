"""Find links of the built site that lead to no file or anchor of it, or load from elsewhere.

    uv run python docs/links.py FOLDER

Zensical checks links between pages alone; files, raw HTML and the reference's anchors are left.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

LINK = re.compile(r"<(\w+)[^>]*?\s(?:href|src)=(?:\"([^\"]*)\"|([^\s\">]+))")
ANCHOR = re.compile(r"\s(?:id|name)=(?:\"([^\"]*)\"|([^\s\">]+))")
LOADED = {"script", "link", "img", "iframe", "source"}


def dead_links(site: Path) -> Iterator[str]:
    """Each dead link, as ``page: link``. The page for errors has paths of a server: left out."""
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    anchors = {path: {unquote(a or b) for a, b in ANCHOR.findall(text)}
               for path, text in texts.items()}  # fmt: skip
    for page, text in texts.items():
        if page.name == "404.html":
            continue
        for tag, quoted, bare in LINK.findall(text):
            link = quoted or bare
            path, _, anchor = link.partition("#")
            if re.match(r"(\w+:|//)", link):
                if tag in LOADED and not link.startswith("data:"):
                    yield f"{page.name}: loads {link}"
                continue
            target = (page.parent / unquote(path)).resolve() if path else page
            known = anchors.get(target)
            if not target.exists() or (anchor and known and unquote(anchor) not in known):
                yield f"{page.name}: {link}"


if __name__ == "__main__":
    found = sorted(set(dead_links(Path(sys.argv[1]))))
    sys.exit("\n".join(["dead links:", *found]) if found else 0)
