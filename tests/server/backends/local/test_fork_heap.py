"""The fork server's heap is moved to huge pages where the kernel can."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
SCRIPT = """
import sys
from pathlib import Path

from comfysnap_server.backends.local.fork_server import collapse_heap

held = [bytearray(1 << 10) for _ in range(int(sys.argv[1]) << 10)]


def huge():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages")) << 10


before = huge()
print(collapse_heap(), huge() - before, all(set(item) == {0} for item in held[::512]))
"""


def collapse(mebibytes: int) -> tuple[int, int, bool]:
    """Bytes that the kernel took on, growth of the huge pages, whether the contents stayed."""
    command = [sys.executable, "-c", SCRIPT, str(mebibytes)]
    taken, grown, same = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.split()
    return int(taken), int(grown), same == "True"


def test_a_large_heap_moves_to_huge_pages_and_keeps_its_contents() -> None:
    taken, grown, same = collapse(256)
    assert same
    if not taken:
        pytest.skip("this kernel does not collapse pages (MADV_COLLAPSE)")
    assert grown > 128 << 20


def test_a_small_heap_is_left_alone() -> None:
    assert collapse(1)[0] == 0
