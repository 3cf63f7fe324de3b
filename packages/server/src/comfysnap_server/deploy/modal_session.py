"""Talking to Modal from a command: output on, and its errors in one line."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from comfysnap_server.deploy.deployment import PROJECT_VARIABLE

if TYPE_CHECKING:
    from comfysnap_server.deploy.deployment import Deployment

UNREACHABLE = 3


def point_at(deployment: "Deployment") -> None:
    """Name the project to the modules that define Modal apps; they read it as they are imported."""
    os.environ[PROJECT_VARIABLE] = str(deployment.file)


@contextmanager
def modal_session(*, quiet: bool = False) -> Generator[None]:
    """Show what Modal does; exit 3 when it cannot be reached or refuses, 1 when it fails."""
    import modal
    from modal.exception import AuthError, ConnectionError, Error

    try:
        if quiet:
            yield
        else:
            with modal.enable_output():
                yield
    except (AuthError, ConnectionError) as error:
        sys.stderr.write(f"error: Modal: {error}\n")
        sys.exit(UNREACHABLE)
    except Error as error:
        sys.stderr.write(f"error: Modal: {error}\n")
        sys.exit(1)
