"""``/docs``: Swagger UI from this server alone. The page asks for a key where one is needed."""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

PATH: Final = "/docs"

# Kept in Python, as on Modal a package is its modules alone.
_HTML: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>comfysnap API</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/page.css">
<form id="access" hidden>
  <label>API key <input id="key" type="password" autocomplete="off" required></label>
  <button>Show the API</button>
</form>
<p id="message" role="status"></p>
<div id="api"></div>
<noscript>This page needs JavaScript; the document itself is /openapi.json.</noscript>
<script src="docs/swagger-ui.js"></script>
<script src="docs/page.js"></script>
</html>
"""
_SCRIPT: Final = """\
"use strict";
const access = document.getElementById("access");
const input = document.getElementById("key");
const message = document.getElementById("message");

async function show(key) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch("openapi.json", { headers, cache: "no-store" });
  if (response.ok) {
    const spec = await response.json();
    spec.servers = [{ url: new URL(".", location.href).pathname }];
    access.hidden = true;
    message.textContent = "";
    const ui = SwaggerUIBundle({
      spec,
      dom_id: "#api",
      deepLinking: true,
      validatorUrl: null,
      onComplete: () => key && ui.preauthorizeApiKey("key", key),
    });
  } else if (response.status === 401) {
    access.hidden = false;
    message.textContent = key ? "This key is not valid." : "";
    input.focus();
  } else {
    const problem = await response.json().catch(() => ({}));
    message.textContent = problem.detail ?? `/openapi.json: ${response.status}`;
  }
}

function run(key) {
  show(key).catch((error) => (message.textContent = String(error)));
}

access.addEventListener("submit", (event) => {
  event.preventDefault();
  run(input.value.trim());
});
run("");
"""
_STYLE: Final = """\
body { margin: 0; background: #fff; }
#access, #message { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font-family: sans-serif; }
#message:empty { display: none; }
"""

_SWAGGER: Final = {
    "swagger-ui.js": ("swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": ("swagger-ui.css", "text/css"),
    "favicon.png": ("favicon-32x32.png", "image/png"),
}
"""What the page loads to the file of ``fastapi_swagger`` and its content type."""
_OWN: Final = {"page.js": (_SCRIPT, "text/javascript"), "page.css": (_STYLE, "text/css")}

PAGES: Final = frozenset({PATH, *(f"{PATH}/{name}" for name in (*_SWAGGER, *_OWN))})
"""Paths that need no key: they say nothing of this server."""

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data: blob:; media-src 'self' blob:; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def docs_page_router() -> APIRouter:
    """The page and what it loads."""
    router = APIRouter(include_in_schema=False)

    def page(request: Request) -> Response:
        return _answer(request, _HTML.encode(), "text/html")

    def part(request: Request) -> Response:
        return _answer(request, *_part(request.url.path.rpartition("/")[2]))

    for path in PAGES:
        router.get(path)(page if path == PATH else part)
    return router


@cache
def _part(name: str) -> tuple[bytes, str]:
    """A file that the page loads, and its content type."""
    if name in _OWN:
        text, kind = _OWN[name]
        return text.encode(), kind
    file, kind = _SWAGGER[name]
    return (files("fastapi_swagger") / "resources" / file).read_bytes(), kind


def _answer(request: Request, content: bytes, kind: str) -> Response:
    headers = {**_HEADERS, "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=kind)
