"""Kinds of values in ``[deploy]``: GPUs, amounts, names, packages, commits."""

from math import isfinite
from typing import Annotated, Final, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from comfysnap_schema.workflow import setting_error
from comfysnap_server import pins
from comfysnap_server.models import is_safe_path

GPU_COUNTS: Final[dict[str, int]] = {
    "T4": 8, "L4": 8, "A10": 4, "A10G": 4, "L40S": 8, "A100": 8, "A100-40GB": 8, "A100-80GB": 8,
    "RTX-PRO-6000": 8, "H100": 8, "H100!": 8, "H200": 8, "B200": 8, "B200+": 8,
}  # fmt: skip
"""GPU name to the maximum number per container (modal.com/docs/guide/gpu)."""


def _known_gpu(text: str) -> str:
    name, colon, count = text.upper().partition(":")
    if name not in GPU_COUNTS:
        known = ", ".join(GPU_COUNTS)
        raise setting_error(
            "unknown_gpu", f"unknown GPU {text!r}; available: {known}, or NAME:COUNT"
        )
    most = GPU_COUNTS[name]
    if colon and not (count.isascii() and count.isdigit() and 1 <= int(count) <= most):
        raise setting_error(
            "unknown_gpu", f"{text!r}: the count of {name} must be 1 to {most}, got {count!r}"
        )
    return name + colon + count


def _amounts(value: object) -> list[float]:
    """A request, or a request and a limit."""
    given = cast("list[object]", value) if isinstance(value, list) else [value]
    amounts = [float(v) for v in given if isinstance(v, (int, float)) and not isinstance(v, bool)]
    right = len(amounts) == len(given) and len(amounts) in {1, 2}
    if not right or not all(amount > 0 and isfinite(amount) for amount in amounts):
        raise setting_error("invalid_value", "must be a positive number, or [request, limit]")
    if amounts[0] > amounts[-1]:
        raise setting_error(
            "invalid_range",
            f"the request ({amounts[0]:g}) must not exceed the limit ({amounts[-1]:g})",
        )
    return amounts


def _cores(value: object) -> float | tuple[float, float]:
    amounts = _amounts(value)
    return amounts[0] if len(amounts) == 1 else (amounts[0], amounts[1])


def _mebibytes(value: object) -> int | tuple[int, int]:
    amounts = [int(amount) for amount in _amounts(value)]
    if not min(amounts):
        raise setting_error("invalid_value", "must be at least 1 MiB")
    return amounts[0] if len(amounts) == 1 else (amounts[0], amounts[1])


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _package(text: str) -> str:
    if not text.strip() or text.startswith("-"):
        raise setting_error(
            "invalid_value", f"{text!r} is not a package requirement (options are not allowed)"
        )
    return text


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise setting_error("invalid_value", f"{text!r} must start with https:// or http://")
    return text


def _commit(text: str) -> str:
    try:
        return pins.commit_of(text)
    except pins.UnknownReleaseError as error:
        raise setting_error("unknown_comfyui", str(error)) from None


def _relative_paths(paths: list[str]) -> list[str]:
    for path in paths:
        if not is_safe_path(path) or "/" not in path:
            raise setting_error(
                "unsafe_path", f"{path!r} is not a path inside models/; use folder/file"
            )
    return paths


Gpu = Annotated[str, AfterValidator(_known_gpu)]
Names = Annotated[list[str], BeforeValidator(_as_list)]
"""One name, or a list of them."""
Gpus = Annotated[list[Gpu], Field(min_length=1), BeforeValidator(_as_list)]
ObjectName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Name of a Modal object (app, volume, secret)."""
Cores = Annotated[float | tuple[float, float], PlainValidator(_cores)]
Mebibytes = Annotated[int | tuple[int, int], PlainValidator(_mebibytes)]
ModelPaths = Annotated[list[str], AfterValidator(_relative_paths)]
Commit = Annotated[str, AfterValidator(_commit)]
Package = Annotated[str, AfterValidator(_package)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
GitHost = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$")]
Version = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+){1,2}$")]
