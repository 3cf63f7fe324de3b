"""An application of its own: only the public API, strict types, tests on the mock kit."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent / "project"
BIN = Path(sys.executable).parent


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_the_project_passes_its_own_tests() -> None:
    ran = run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "--rootdir", PROJECT, "-c", PROJECT / "pyproject.toml", ".",
    )  # fmt: skip

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_project_is_clean_under_pyright_strict() -> None:
    ran = run(BIN / "pyright", "--pythonpath", sys.executable, "-p", PROJECT)

    assert ran.returncode == 0, ran.stdout


def test_a_wrong_field_is_a_type_error(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from comfysnap_client import Client\n"
        "from comfysnap_schema.wire.files import ImageFile\n"
        "from comfysnap_schema.workflows.flux import FluxInput\n\n"
        "async def main(client: Client) -> ImageFile:\n"
        '    image: ImageFile = (await client.infer_sync(FluxInput(prompt="x"))).images[0]\n'
        '    FluxInput(promt="x")\n'
        '    FluxInput(prompt="x", steps="many")\n'
        "    FluxInput()\n"
        "    return image\n"
    )
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    ran = run(BIN / "pyright", "--pythonpath", sys.executable, "-p", tmp_path)

    lines = {int(line.split(":")[1]) for line in ran.stdout.splitlines() if " - error: " in line}
    assert lines == {7, 8, 9}
