from collections.abc import Callable
from pathlib import Path

import pytest

WriteProject = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteProject:
    """Writes a ``comfysnap.toml`` into the test's folder."""
    monkeypatch.delenv("COMFYSNAP_PROJECT", raising=False)

    def write(text: str) -> Path:
        file = tmp_path / "comfysnap.toml"
        file.write_text(text)
        return file

    return write


@pytest.fixture
def write_workflow(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a workflow folder with a graph of two core nodes."""

    def write_workflow(name: str) -> Path:
        folder = tmp_path / "workflows" / name
        folder.mkdir(parents=True)
        (folder / "graph.json").write_text(
            '{"1": {"class_type": "EmptyImage", "inputs": {"width": 8}},'
            ' "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}}'
        )
        (folder / "workflow.toml").write_text(
            f'name = "{name}"\n[inputs.width]\npath = "1.inputs.width"\n'
            '[outputs.images]\nnode = "2"\nkind = "image"\nmany = true\n'
        )
        return folder

    return write_workflow
