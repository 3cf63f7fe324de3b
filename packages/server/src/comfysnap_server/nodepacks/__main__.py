"""``python -m comfysnap_server.nodepacks install | probe | credential``.

The image build runs ``install``, ``run_probe`` starts ``probe``, and git asks ``credential``.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import get_args

from comfysnap_server.nodepacks.credential import credential
from comfysnap_server.nodepacks.install import (
    PackInstallError,
    Step,
    install_packs,
    print_line,
    print_report,
)
from comfysnap_server.nodepacks.manifest import PackManifestError, read_manifest
from comfysnap_server.nodepacks.probe import probe
from comfysnap_server.nodepacks.sources import Sources


class Arguments(argparse.Namespace):
    """The command line of ``install``."""

    snapshot: Path
    comfyui: Path
    registry: str
    token: list[str]
    pause: float
    python: str
    step: Step | None


def install(words: list[str]) -> int:
    """Install a snapshot; returns the exit code, 1 if a required pack could not be installed."""
    parser = argparse.ArgumentParser(prog="nodepacks install", description=__doc__)
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--registry", default=Sources.registry)
    parser.add_argument("--token", action="append", default=[], metavar="HOST=VARIABLE")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument(
        "--pause", type=float, default=Sources.pause, help="seconds before the second attempt"
    )
    parser.add_argument("--step", choices=get_args(Step), help="default: both")
    given = parser.parse_args(words, namespace=Arguments())
    sources = Sources(
        registry=given.registry,
        files=given.snapshot.parent / "custom_nodes",
        tokens=dict(pair.split("=", 1) for pair in given.token),
        pause=given.pause,
    )
    try:
        manifest = read_manifest(given.snapshot)
    except PackManifestError as error:
        print_line(f"{given.snapshot}: {error}")
        return 1
    try:
        print_report(install_packs(manifest, given.comfyui, sources, given.python, step=given.step))
    except PackInstallError as error:
        print_report(error.report)
        print_line(f"required node packs could not be installed: {error}")
        return 1
    return 0


def main(words: list[str]) -> int:
    """Run a program; returns its exit code."""
    match words:
        case ["install", *options]:
            return install(options)
        case ["probe", comfyui]:
            probe(comfyui)
        case ["credential", "get"]:
            sys.stdout.write(credential(sys.stdin, os.environ) or "")
        case ["credential", _]:
            pass  # git also asks to store and to erase
        case _:
            print_line(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
