"""Another folder of models, beside ComfyUI's own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from comfysnap_server.engine.comfyui.folders import add_models


def test_each_kind_of_model_gets_its_folder_and_nothing_else_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known: dict[str, Any] = {
        "checkpoints": (["/comfyui/models/checkpoints"], {".safetensors"}),
        "loras": (["/comfyui/models/loras"], {".safetensors"}),
        "custom_nodes": (["/comfyui/custom_nodes"], set[str]()),
        "configs": (["/comfyui/models/configs"], {".yaml"}),
        "odd": None,  # what a node pack may register
    }

    def add(kind: str, folder: str) -> None:
        paths, _ = known[kind]
        paths.append(folder)

    folder_paths = SimpleNamespace(folder_names_and_paths=known, add_model_folder_path=add)
    add_models(folder_paths, Path("/cache/models"))
    assert known["checkpoints"][0] == ["/comfyui/models/checkpoints", "/cache/models/checkpoints"]
    assert known["loras"][0][1:] == ["/cache/models/loras"]
    assert known["custom_nodes"][0] == ["/comfyui/custom_nodes"]
    assert known["configs"][0] == ["/comfyui/models/configs"]
    assert "models of the kind odd cannot be named by URL" in caplog.text
