"""Git credential helper: gives git the token of a host from the environment.

A token is only sent to its own host, and is never an argument, part of a URL, or written to a file.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Final

TOKENS_VARIABLE: Final = "COMFYSNAP_GIT_TOKENS"
"""Lines ``host=VARIABLE``, with the name of the variable that contains the token."""


def credential(request: Iterable[str], environment: Mapping[str, str]) -> str | None:
    """The output for git's request (``gitcredentials(7)``); None: no credential."""
    attributes = dict(line.rstrip("\n").split("=", 1) for line in request if "=" in line)
    host = attributes.get("host", "")
    variables = dict(
        line.split("=", 1)
        for line in environment.get(TOKENS_VARIABLE, "").splitlines()
        if "=" in line
    )
    token = environment.get(variables.get(host, ""), "")
    protected = attributes.get("protocol") == "https" or _is_loopback(host)
    if not token or not protected or "\n" in token:
        return None
    return f"username=x-access-token\npassword={token}\n"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.rpartition(":")[0] or host).is_loopback
    except ValueError:
        return False
