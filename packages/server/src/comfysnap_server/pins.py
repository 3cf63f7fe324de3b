"""Releases of ComfyUI, and the pinned versions of an install: Python packages, torch and CUDA.

Used by the image, ``comfysnap comfyui install`` and the documentation's tests.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from comfysnap_server.errors import ComfysnapServerError

VERSION: Final = "0.33.0"
"""The ComfyUI release that is installed by default."""
REPOSITORY: Final = "https://github.com/Comfy-Org/ComfyUI"

TORCH: Final = "2.11.0"
TORCH_NAMES: Final = ("torch", "torchvision", "torchaudio")
WITHOUT_TORCH: Final = tuple(f"{name} ; sys_platform == 'never'" for name in TORCH_NAMES)
"""Overrides that exclude torch's packages, which have one build per CUDA, from a resolution."""
TORCHVISION: Final = "0.26.0"
TORCHAUDIO: Final = "2.11.0"
CUDA: Final = "13.0"
"""CUDA version of PyPI's Linux wheels of ``TORCH``; needs compute capability 7.5 (T4) or later, and
an NVIDIA driver of at least ``CUDA_DRIVER``."""
CUDA_DRIVER: Final = 580
"""Minimum major version of the NVIDIA driver for CUDA 13."""
MANAGER: Final = "comfyui_manager==4.2.2"
"""Requirement of ``main.py --enable-manager``, from ``manager_requirements.txt`` of ``VERSION``."""
WORKER: Final = ("pydantic>=2.12", "pillow>=11", "packaging>=26.1")
"""Requirements of comfysnap in ComfyUI's environment; the dependency group ``worker``."""
UV: Final = "0.13.9"
"""Version of uv in the image build."""
LOCK_DATE: Final = "2026-08-14T00:00:00Z"
"""The lock contains only packages published before this time."""

RELEASES: Final[Mapping[str, str]] = {
    "0.33.0": "2f35f4a08176d993cded35dac3332be4f7287f41",
    "0.32.0": "c2bcbecd82ec5ae66594340b395c24ef0217b238",
    "0.31.0": "43cb4fffc89bba20ab7bd61467a36d0339338dab",
    "0.30.0": "b1693ecba9f5b65f8c80ab36b195ab963ec92413",
    "0.29.0": "a8c44f9b2a0678ac4082e3529a3f43db7472acfe",
    "0.28.0": "700821e1364eaab0e8f21c538a2131719fec57bf",
    "0.27.0": "bb131be9e83d2f773c90f1d6f1e4b248a498c8c5",
    "0.26.0": "f6c162ddcfbd7eefb39c06fe5b8d4c46e8d09f40",
    "0.25.0": "135abed8da169e33ab0b86550e05e3ae55d6df8c",
    "0.24.0": "f49bdb655707b97952dcef40e12e5af1f08d2007",
    "0.23.0": "a88e02b18576283b1ff25a4b564548c5dc42cbf6",
    "0.22.0": "a8d2519058ea766ca3b14916bcc01ecef5efd235",
    "0.21.1": "26515acd23fa291a8f5ab53c5997258598de0701",
    "0.21.0": "52976f3ea33cc2312c7b5a32e1c7510b203eefb6",
    "0.20.1": "64b8457f55cd7fb54ca7a956d9c73b505e903e0c",
    "0.20.0": "75143eeb06b14bc93db71de207945f6f888be4e0",
    "0.19.3": "3086026401180c9216bcb6ace442a4e3587d2c66",
    "0.19.2": "c033bbf516ad8fcd079b45c318e73ee8b5e22962",
    "0.19.1": "8f374716ee98d378d403ebc61250e091ecd3a25c",
    "0.19.0": "acd718598eca0b944a1a7a82072a9dec40d3d4f7",
    "0.18.1": "ebf6b52e322664af91fcdc8b8848d31d5fb98f66",
    "0.18.0": "dc719cde9c448c65242ae2d4ba400ba18c36846f",
    "0.17.0": "63d1bbdb407c69370d407ce5ced6ca3f917528a8",
    "0.16.4": "a7a6335be538f55faa2abf7404c9b8e970847d1f",
    "0.16.3": "1c218282369a6cc80651d878fc51fa33d7bf34e2",
    "0.16.2": "50549aa252903b936b2ed00b5de418c8b47f0841",
    "0.16.1": "6ef82a89b83a49247081dc57b154172573c9e313",
    "0.16.0": "e04d0dbeb8266aa9262b5a4c3934ba4e4a371e37",
    "0.15.1": "3dd10a59c00248d00f0cb0ab794ff1bb9fb00a5f",
    "0.15.0": "b874bd2b8c324d58cfc37bff0754dd16815a8f3c",
    "0.14.1": "19236edfa4d2f66070d66a6b3aee592c9c2ad574",
    "0.14.0": "fe52843fe55b92dedaabff684294dd7a115d2204",
    "0.13.0": "6648ab68bc934a185c90a2a872c87dc64d093751",
    "0.12.3": "cb459573c8fa025bbf9ecf312f6af376d659f567",
    "0.12.2": "5087f1d497c5b615fbb5d1ff03fcc1df308bd025",
    "0.12.1": "3be017516643d9a8d8ed85904512ed4b240ef8c6",
    "0.12.0": "66e1b07402a84363b174c35d09acfcab0af7b0e5",
    "0.11.1": "b0d9708974f50fce7d2448ac84e9260c87f7ade3",
    "0.11.0": "09725967cf76304371c390ca1d6483e04061da48",
    "0.10.0": "9d273d3ab1fb1d2c8b34de4d54cabe50a5a3e5bc",
    "0.9.2": "8f40b43e0204d5b9780f3e9618e140e929e80594",
    "0.9.1": "5ac13725331c1dfdf7aab977d4588b0a06a3debd",
    "0.9.0": "db9e6edfa1604be0b1f738b2f67495b46cee5a8c",
    "0.8.2": "2e9d51680a90bca9cc375ba7767f7bf3ed27d563",
    "0.8.1": "ac12f77bed7bbbaf20289533bf7c0bff275e4a41",
    "0.8.0": "fc0cb10bcbee6e73ed3caf34c27f7bde4559a07f",
    "0.7.0": "f59f71cf34067d46713f6243312f7f0b360d061f",
    "0.6.0": "e4c61d75555036fa28b6bb34e5fd67b007c9f391",
    "0.5.1": "ba6080bbab070934ea6e870c5fc30dbf702eb445",
    "0.5.0": "3a5f239cb622d7d8b1706d0b63c469dfef2eaf73",
    "0.4.0": "fc657f471a29d07696ca16b566000e8e555d67d1",
    "0.3.76": "30c259cac8c08ff8d015f9aff3151cb525c9b702",
    "0.3.75": "8402c8700a29a97bc5d706d6a0b14c41bc2c2d8a",
    "0.3.74": "90b3995ec842335e44d70e0521ff6ff6c3ff9aaa",
    "0.3.73": "0c18842acbdf546883b08808dd9feea7605d7649",
    "0.3.72": "828b1b9953175b6df79459f417d1032869d0b46a",
    "0.3.71": "c55fd7481626d8bee8044ea7512ea996d13a1b90",
    "0.3.70": "b5c8be8b1db44ded07cb1b437b9f33ebff5848c1",
    "0.3.69": "3d0003c24c1aec9f0c021dbc70ffb7cd8cf0685c",
    "0.3.68": "265adad858e1f31b66cd3523a02b16f5d34ced52",
    "0.3.67": "f2bb3230b796f6a486894fc3b597db2c0b9538c9",
    "0.3.66": "560b1bdfca77d9441ca2924fd9d6baa8dda05cd7",
    "0.3.65": "51696e3fdcdfad657cb15854345fbcbbe70eef8d",
    "0.3.64": "637221995f7424a561bd825de3e61ea117dfe1e3",
    "0.3.63": "6bd3f8eb9ff2d7c74e8ca75ad1f854a6b256b714",
    "0.3.62": "bab8ba20bf47d985d6b1d73627c2add76bd4e716",
    "0.3.61": "977a4ed8c55ade53d0d6cfe1fe8a6396ee35a2ec",
    "0.3.60": "b8730510db30c8858e1e5d8e126ef19eac395560",
    "0.3.59": "72212fef660bcd7d9702fa52011d089c027a64d8",
    "0.3.58": "8d7c930246bd33c32eb957b01ab0d364af6e81c0",
    "0.3.57": "b0338e930bbc1f9d01f005f224573d5994732932",
    "0.3.56": "4449e147692366ac8b9bd3b8834c771bc81e91ac",
    "0.3.55": "a86aaa430183068e2a264495c802c81d05eb350a",
    "0.3.54": "00636101771cb373354d6294cc6567deda2635f6",
    "0.3.53": "0eb821a7b6612af0fa3aaa8302739788a4bd629e",
    "0.3.52": "71ed4a399ec76a75aa2870b772d2022e4b9a69a3",
    "0.3.51": "7139d6d93fc7b5481a69b687080bd36f7b531c46",
    "0.3.50": "d5c1954d5cd4a789bbf84d2b75a955a5a3f93de8",
    "0.3.49": "32a95bba8ac91e8a610c35ce4d9963d2453118c1",
    "0.3.48": "bff60b5cfc10d1b037a95746226ac6698dc3e373",
}
"""Commits by version, newest first."""
TESTED: Final = (
    "0.3.64", "0.3.76", "0.5.1", "0.9.2", "0.14.0", "0.19.3", "0.23.0", "0.28.0", "0.33.0",
)  # fmt: skip
"""Releases that the tests marked ``comfyui`` ran on, oldest first (October 2025 to August 2026)."""
COMMIT: Final = RELEASES[VERSION]

_VERSION: Final = re.compile(r"v?([0-9]+\.[0-9]+\.[0-9]+)")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_LAST_TORCHAUDIO: Final = (2, 11)


class UnsupportedComfyError(ComfysnapServerError):
    """The folder is not a ComfyUI checkout, or this engine does not support it."""


class UnknownReleaseError(ComfysnapServerError, ValueError):
    """Not a known version of ComfyUI or a full commit."""


def commit_of(release: str) -> str:
    """The commit of a version (``0.33.0``, ``v0.33.0``); a full commit is returned unchanged.

    Raises:
        UnknownReleaseError: The version is not in ``RELEASES``, or the text is not a version.
    """
    if is_commit(release):
        return release
    named = is_version(release)
    if named and (commit := RELEASES.get(release.removeprefix("v"))):
        return commit
    what = (
        f"unknown ComfyUI version {release!r}"
        if named
        else (f"{release!r} is not a ComfyUI version or a full commit (40 hex digits)")
    )
    *newest, _ = list(RELEASES)[:6]
    oldest = list(RELEASES)[-1]
    raise UnknownReleaseError(
        f"{what}; known versions: {', '.join(newest)} and older, down to {oldest}"
        + ("; for other versions, pass the commit (40 hex digits)" if named else "")
    )


def is_version(text: str) -> bool:
    """Whether the text is a version number, known or not."""
    return _VERSION.fullmatch(text) is not None


def is_commit(text: str) -> bool:
    """Whether the text is a full commit: 40 hex digits."""
    return _COMMIT.fullmatch(text) is not None


def describe(commit: str) -> str:
    """Display name of a commit: ``0.33.0 (2f35f4a08176)``, or the commit if it is not a release."""
    version = next((name for name, known in RELEASES.items() if known == commit), None)
    return f"{version} ({commit[:12]})" if version else commit


def lock_file() -> Path:
    """The requirement file that locks every package of ``VERSION``, with hashes."""
    return Path(str(files("comfysnap_server.engine.comfyui") / "requirements-comfyui.txt"))


def torch_packages(torch: str) -> tuple[str, ...]:
    """Requirements for a version of torch and matching builds of torchvision and torchaudio.

    torchvision's metadata pins its torch. torchaudio's no longer does, and a build for another
    torch does not load; 2.11 is the last torchaudio, and works with torch 2.11 and later.
    """
    parts = [int(part) for part in torch.split(".")]
    audio = TORCHAUDIO if tuple(parts[:2]) > _LAST_TORCHAUDIO else torch
    return f"torch=={torch}", "torchvision", f"torchaudio=={audio}"


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
