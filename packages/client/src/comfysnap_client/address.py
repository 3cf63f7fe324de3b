"""Where a server is, and the headers that prove who calls."""

import httpx


def checked_url(base_url: str) -> str:
    """The address without its last slash.

    Raises:
        ValueError: It is none, or holds credentials or a query.
    """
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        raise ValueError("the server's address cannot be read") from None
    if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 65536:
        raise ValueError(
            "the server's address starts with http:// or https://, as http://127.0.0.1:8000"
        )
    if url.userinfo or url.query or url.fragment:
        raise ValueError("the server's address holds neither credentials nor a query: give a key")
    return base_url.rstrip("/")


def credentials(
    api_key: str | None, modal_key: str | None, modal_secret: str | None
) -> dict[str, str]:
    """The headers that carry the keys.

    Raises:
        ValueError: Half a proxy token, or a key that no header can carry.
    """
    if (modal_key is None) != (modal_secret is None):
        raise ValueError("modal_key and modal_secret come together")
    headers: dict[str, str] = {}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    if modal_key is not None and modal_secret is not None:
        headers.update({"Modal-Key": modal_key, "Modal-Secret": modal_secret})
    for value in headers.values():
        if not (value.isascii() and value.isprintable()):
            raise ValueError("a key holds characters that no header can carry")
    return headers
