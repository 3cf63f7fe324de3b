"""Import time of `comfysnap_client.Client`, compared with `httpx` and a pydantic model.

Measures CPU time, best of many rounds, to reduce the influence of other processes; bytecode is
compiled beforehand, as in an installed package. Targets: at most 40 ms more, and the packages of
the command line and of the mock server are not imported.

    uv run python benchmarks/import_time.py [--quick]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Final

TARGET_MS: Final = 40.0
UNWANTED: Final = ("typer", "respx", "opentelemetry", "PIL", "modal", "torch", "fastapi")

BASE: Final = (
    "import httpx\nfrom pydantic import BaseModel\nclass Model(BaseModel):\n    x: int = 0"
)
OURS: Final = "from comfysnap_client import Client"
TIMED: Final = """
import sys, time
started = time.process_time()
{code}
print((time.process_time() - started) * 1000, *sorted(m for m in {unwanted} if m in sys.modules))
"""


def timed(code: str, compiled: str) -> tuple[float, list[str]]:
    """CPU milliseconds of ``code`` in a new interpreter, and the unwanted modules it imported."""
    program = TIMED.format(code=code, unwanted=UNWANTED)
    variables = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=variables
    )
    milliseconds, *loaded = ran.stdout.split()
    return float(milliseconds), loaded


def main() -> int:
    """Alternate both, so that they run under the same load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 7 if parser.parse_args().quick else 25
    both = f"{BASE}\n{OURS}"
    base: list[float] = []
    ours: list[float] = []
    loaded: list[str] = []
    with tempfile.TemporaryDirectory() as compiled:
        timed(both, compiled)
        for _ in range(rounds):
            base.append(timed(BASE, compiled)[0])
            milliseconds, loaded = timed(both, compiled)
            ours.append(milliseconds)
    more = min(ours) - min(base)
    typical = statistics.median(ours) - statistics.median(base)
    print(f"{'httpx and a pydantic model, best':38} {min(base):7.1f} ms")
    print(f"{'the same and comfysnap_client, best':38} {min(ours):7.1f} ms")
    print(f"{'more, best (median)':38} {more:7.1f} ms ({typical:.1f})  <= {TARGET_MS:.0f} ms")
    print(f"{'unwanted imports':38} {', '.join(loaded) or 'none'}")
    return 0 if more <= TARGET_MS and not loaded else 1


if __name__ == "__main__":
    sys.exit(main())
