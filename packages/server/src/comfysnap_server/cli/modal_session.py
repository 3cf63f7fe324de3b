"""What the commands that use Modal share: its environment, its output and its errors."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Annotated, Final

import typer

NO_CONNECTION: Final = 3
"""Exit code when Modal cannot be reached or denies access."""

_NO_ACCOUNT: Final = (
    "no Modal account on this machine: sign in with `modal setup`, or set MODAL_TOKEN_ID and "
    "MODAL_TOKEN_SECRET"
)

EnvironmentOption = Annotated[
    str | None,
    typer.Option("--env", "-e", envvar="MODAL_ENVIRONMENT", help="Modal environment."),
]


@contextmanager
def modal_session(*, quiet: bool = False, environment: str | None = None) -> Generator[None]:
    """Print Modal's output, and its errors in one line.

    Exits with 3 if Modal cannot be reached or denies access, with 1 on its other errors.

    Args:
        quiet: Whether to print errors only.
        environment: Modal environment. None: that of the variable or of the account.
    """
    if environment:
        os.environ["MODAL_ENVIRONMENT"] = environment
    import modal
    from modal.exception import AuthError, ConnectionError, Error

    try:
        if quiet:
            yield
        else:
            with modal.enable_output():
                yield
    except (AuthError, ConnectionError) as error:
        reason = _NO_ACCOUNT if str(error).startswith("Token missing") else f"Modal: {error}"
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(NO_CONNECTION)
    except Error as error:
        print(f"error: Modal: {error}", file=sys.stderr)
        sys.exit(1)


def create_files_volume(name: str, environment: str | None) -> None:
    """Create the volume for inputs and outputs, unless there is one: with version 2, which has no
    limit of files and of commits at a time. A volume of version 1 stays, with what is on it."""
    import modal
    from modal.exception import AlreadyExistsError

    with suppress(AlreadyExistsError):
        modal.Volume.objects.create(name, version=2, environment_name=environment)
