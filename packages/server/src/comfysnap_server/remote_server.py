"""The URL and the keys of a running server, for commands that pass them on."""

from collections.abc import Mapping
from urllib.parse import urlsplit


def keys_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The headers of the keys in an environment, as the client sends them.

    Raises:
        ValueError: Half of a proxy token, or a key that cannot be sent.
    """
    key, modal_key, modal_secret = (
        environment.get(name, "") for name in ("COMFYSNAP_API_KEY", "MODAL_KEY", "MODAL_SECRET")
    )
    if bool(modal_key) != bool(modal_secret):
        raise ValueError("MODAL_KEY and MODAL_SECRET must be set together")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if modal_key:
        headers |= {"Modal-Key": modal_key, "Modal-Secret": modal_secret}
    for value in headers.values():
        if not (value.isascii() and value.isprintable()):
            raise ValueError("a key must contain only printable ASCII characters")
    return headers


def checked_url(url: str) -> str:
    """The URL of a server without a trailing slash.

    Raises:
        ValueError: Not an http(s) URL, or one with credentials, a query or a fragment.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "the URL must start with http:// or https://, for example https://me--app.modal.run,"
            f" got {url!r}"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("the URL must not contain credentials, a query or a fragment")
    return url.rstrip("/")
