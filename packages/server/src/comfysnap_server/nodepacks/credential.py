"""A git credential helper that hands a host's token from the environment to git, and to that host
alone: no token is ever an argument, part of an address, or written to a file."""

import os
import sys
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Final

TOKENS_VARIABLE: Final = "COMFYSNAP_GIT_TOKENS"
"""Lines ``host=VARIABLE``; the variable holds the token."""


def credential(asked: Iterable[str], environment: Mapping[str, str]) -> str | None:
    """The answer to git's question (``gitcredentials(7)``), or None to stay silent."""
    question = dict(line.rstrip("\n").split("=", 1) for line in asked if "=" in line)
    host = question.get("host", "")
    variables = dict(
        line.split("=", 1)
        for line in environment.get(TOKENS_VARIABLE, "").splitlines()
        if "=" in line
    )
    token = environment.get(variables.get(host, ""), "")
    protected = question.get("protocol") == "https" or _is_loopback(host)
    if not token or not protected or "\n" in token:
        return None
    return f"username=x-access-token\npassword={token}\n"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.rpartition(":")[0] or host).is_loopback
    except ValueError:
        return False


def main() -> None:
    """Answer ``get``; ``store`` and ``erase`` have nothing to do."""
    if sys.argv[1:] == ["get"] and (answer := credential(sys.stdin, os.environ)):
        sys.stdout.write(answer)


if __name__ == "__main__":
    main()
