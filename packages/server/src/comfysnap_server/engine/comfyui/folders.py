"""Sets ComfyUI's input, output and temp folders for each job."""

import logging
import os
from pathlib import Path
from typing import Any, Final

_NO_MODELS: Final = frozenset({"configs", "custom_nodes"})

logger = logging.getLogger(__name__)

TEMP: Final = ".temp"
"""Name of the temp folder inside a job's output folder."""


def set_job_folders(folder_paths: Any, input_dir: Path, output_dir: Path) -> None:
    """Set ComfyUI's ``input``, ``output`` and ``temp`` to the folders of one job; creates them."""
    temp = output_dir / TEMP
    input_dir.mkdir(parents=True, exist_ok=True)
    temp.mkdir(parents=True, exist_ok=True)
    folder_paths.set_input_directory(str(input_dir))
    folder_paths.set_output_directory(str(output_dir))
    folder_paths.set_temp_directory(str(temp))


def add_models(folder_paths: Any, root: Path) -> None:
    """Let ComfyUI find the files of another folder of models: each in the folder of its kind."""
    for kind in list(folder_paths.folder_names_and_paths):
        if kind in _NO_MODELS:
            continue
        try:
            folder_paths.add_model_folder_path(kind, str(root / kind))
        except (TypeError, ValueError, AttributeError):  # a node pack registered something else
            logger.warning("models of the kind %s cannot be named by URL", kind)


def confine_inputs(folder_paths: Any) -> None:
    """Reject names like ``../../secret.png``: ComfyUI joins the names in a graph to its input
    folder unchecked (``folder_paths.py``: get_annotated_filepath)."""
    original = folder_paths.annotated_filepath

    def annotated_filepath(name: str) -> tuple[str, str | None]:
        bare, base = original(name)
        if is_outside(bare):
            logger.warning("a graph names a file outside its folders: %r", name)
            return "outside-of-the-job-folder", base
        return bare, base

    folder_paths.annotated_filepath = annotated_filepath


def is_outside(name: str) -> bool:
    """Whether a relative file name leads out of the folder that it is joined to."""
    normal = os.path.normpath(name.replace("\\", "/"))
    return normal.startswith(("/", "../")) or normal == ".." or "\0" in name
