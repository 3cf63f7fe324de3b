"""Options that several commands have, and the session of those that use Modal."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

NO_CONNECTION: Final = 3
"""Exit code when Modal cannot be reached or denies access."""

ProjectOption = Annotated[
    Path | None,
    typer.Option(
        "--project",
        metavar="PATH",
        help="Project folder or its comfysnap.toml. Default: this folder or a parent.",
    ),
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option("--env", "-e", envvar="MODAL_ENVIRONMENT", help="Modal environment."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def modal_session(*, quiet: bool = False) -> Generator[None]:
    """Print Modal's output, and its errors in one line.

    Exits with 3 if Modal cannot be reached or denies access, with 1 on its other errors.

    Args:
        quiet: Whether to print errors only.
    """
    import modal
    from modal.exception import AuthError, ConnectionError, Error

    try:
        if quiet:
            yield
        else:
            with modal.enable_output():
                yield
    except (AuthError, ConnectionError) as error:
        print(f"error: Modal: {error}", file=sys.stderr)
        sys.exit(NO_CONNECTION)
    except Error as error:
        print(f"error: Modal: {error}", file=sys.stderr)
        sys.exit(1)
