import re
import subprocess
import sys

import pytest

from tests.paths import ROOT

SOURCES = [path for path in (ROOT / "packages").glob("*/src/**/*.py") if path.stem != "__main__"]
PROGRAMS = [
    ".".join(path.relative_to(next(p for p in path.parents if p.name == "src")).parts)[:-3]
    for path in SOURCES
    if re.search(r'^if __name__ == "__main__":', path.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_module_that_runs_as_a_program_is_not_imported_by_its_package(program: str) -> None:
    """Else ``python -m`` has the module twice, and says so on stderr."""
    code = f"import sys, {program.rpartition('.')[0]}; sys.exit({program!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_programs_are_found() -> None:
    assert "comfysnap_server.backends.local.fork_server" in PROGRAMS
