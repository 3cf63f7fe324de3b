"""What a type checker says of code that uses the generated models."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.paths import ROOT

CASES = "tests/typing_cases/infer.py"


@pytest.fixture(scope="module")
def diagnostics() -> list[dict[str, Any]]:
    """Pyright's findings in strict mode, with lines counted from 1."""
    root = ROOT
    command = [
        sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable,
        "--project", str(root / "tests" / "typing_cases"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["generalDiagnostics"]


@pytest.fixture(scope="module")
def expectations() -> dict[int, str]:
    """Line to what its comment expects: ``error: RULE`` or ``type: TYPE``."""
    root = ROOT
    lines = (root / CASES).read_text().splitlines()
    found = {
        number: line.split("# expect ", 1)[1]
        for number, line in enumerate(lines, start=1)
        if "# expect " in line
    }
    assert found
    return found


def test_the_type_checker_reports_exactly_the_expected_errors(
    diagnostics: list[dict[str, Any]], expectations: dict[int, str]
) -> None:
    found: dict[int, set[str]] = {}
    for item in diagnostics:
        findings = found.setdefault(item["range"]["start"]["line"] + 1, set())
        if item["severity"] == "information":
            findings.add(f"type: {item['message'].rsplit(' is ', 1)[1].strip(chr(34))}")
        else:
            findings.add(f"error: {item['rule']}")
    assert found.keys() == expectations.keys()
    for line, expected in expectations.items():
        assert expected in found[line], line
