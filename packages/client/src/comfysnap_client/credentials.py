"""The base URL of a server and the headers that authenticate the caller."""

import httpx


def checked_url(base_url: str) -> str:
    """``base_url`` without a trailing slash.

    Raises:
        ValueError: Not an http(s) URL, or one with credentials, a query or a fragment.
    """
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        raise ValueError("base_url is not a valid URL") from None
    if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 65536:
        raise ValueError(
            "base_url must start with http:// or https://, for example http://127.0.0.1:8000"
        )
    if url.userinfo or url.query or url.fragment:
        raise ValueError(
            "base_url must not contain credentials, a query or a fragment; use api_key"
        )
    return base_url.rstrip("/")


def credentials(
    api_key: str | None, modal_key: str | None, modal_secret: str | None
) -> dict[str, str]:
    """The authentication headers.

    Raises:
        ValueError: Only half of a proxy token, or a key with characters not allowed in a header.
    """
    if (modal_key is None) != (modal_secret is None):
        raise ValueError("modal_key and modal_secret must be set together")
    headers: dict[str, str] = {}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    if modal_key is not None and modal_secret is not None:
        headers.update({"Modal-Key": modal_key, "Modal-Secret": modal_secret})
    for value in headers.values():
        if not (value.isascii() and value.isprintable()):
            raise ValueError("a key must contain only printable ASCII characters")
    return headers
