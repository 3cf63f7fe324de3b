"""ComfyUI releases that the engine is tested with, and the version of a checkout."""

from pathlib import Path
from typing import Final

from comfysnap_server.engine.protocol import EngineStartError

TESTED: Final = (
    "0.3.64", "0.3.76", "0.5.1", "0.9.2", "0.14.0", "0.19.3", "0.23.0", "0.28.0", "0.33.0",
)  # fmt: skip
"""Releases that the tests marked ``comfyui`` ran on, oldest first (October 2025 to August 2026)."""


class UnsupportedComfyError(EngineStartError):
    """The folder is not a ComfyUI checkout, or this engine does not support it."""


def read_version(checkout: Path) -> str:
    """Read the version of a checkout, without importing it.

    Raises:
        UnsupportedComfyError: The folder is not a ComfyUI checkout.
    """
    wanted = ("execution.py", "nodes.py", "folder_paths.py", "server.py")
    missing = [name for name in wanted if not (checkout / name).is_file()]
    if missing:
        raise UnsupportedComfyError(
            f"{checkout} is not a ComfyUI checkout: missing {', '.join(missing)}"
        )
    try:
        text = (checkout / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        raise UnsupportedComfyError(
            f"{checkout} is older than ComfyUI {TESTED[0]}: missing comfyui_version.py"
        ) from None
    for line in text.splitlines():
        if line.startswith("__version__"):
            return line.partition("=")[2].strip().strip("\"'")
    raise UnsupportedComfyError(f"{checkout}/comfyui_version.py does not define __version__")


def is_tested(version: str) -> bool:
    """Whether a version is between the oldest and the newest tested release."""
    return _key(TESTED[0]) <= _key(version) <= _key(TESTED[-1])


def untested_note(version: str) -> str | None:
    """A warning about a version outside the tested range; None inside it."""
    if is_tested(version):
        return None
    return (
        f"ComfyUI {version} is outside the tested releases ({TESTED[0]} to {TESTED[-1]}); it "
        "has all required functions, so it is used anyway"
    )


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
