"""Options of the ComfyUI engine."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue

from comfysnap_server.engine.comfyui.readahead import ReadAheadMode


class ComfyOptions(BaseModel, frozen=True, extra="forbid"):
    """How to load and run a ComfyUI checkout."""

    path: Path | None = None
    """The checkout. Default: ``COMFYUI_PATH``."""
    arguments: list[str] = Field(default_factory=list)
    """Command-line arguments of ``main.py``, such as ``--use-pytorch-cross-attention``."""
    api_nodes: bool = False
    """Load the nodes that call paid services."""
    custom_nodes: bool = True
    disabled_nodes: list[str] = Field(default_factory=list)
    """Node packs (folder or file names) that are not loaded."""
    after_restore: list[str] = Field(default_factory=list)
    """Node packs that need the GPU when imported: loaded in ``attach``, not in ``load``."""
    extra_model_paths: list[Path] = Field(default_factory=list[Path])
    """Files like ``extra_model_paths.yaml``, in addition to the checkout's own."""
    remote_models: Path | None = None
    """Folder laid out like ``models/``, with those that jobs named by URL."""
    preload: list[str] = Field(default_factory=list)
    """Safetensors files, as ``kind/name`` (``checkpoints/x.safetensors``), read into memory."""
    read_ahead: ReadAheadMode = "auto"
    """Read a job's model files with several streams while ComfyUI loads them: ``auto`` where one
    stream reads them slowly and not on local disks, ``on`` always, ``off`` never."""
    read_ahead_libraries: ReadAheadMode = "off"
    """Find the pages of libraries that a job touches in ``load``, in a fork, and read them with
    several streams in ``attach``. For processes that are restored from a snapshot: forks find them
    in the page cache."""
    mask_cuda: bool = True
    """Hide CUDA in ``load``, as a snapshot without a GPU requires."""
    warm_imports: bool = True
    """Import modules in ``load`` that otherwise the first job would import, and build CLIP's
    tokenizer, which is kept for all jobs."""
    cache_entries: Annotated[int, Field(ge=0)] = 100
    """Maximum number of node results kept between jobs. Models stay loaded while the result of
    their loader is kept."""
    cache_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    """Maximum bytes of tensors (images, latents) kept between jobs; the oldest go first."""
    free_memory: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Below this share of free memory, only results that the last job used are kept."""
    device: Literal["cuda", "cpu"] | None = None
    """``cuda`` makes a missing CUDA device an error, ``cpu`` ignores the GPU, None uses the best
    device available."""
    api_key_variable: str = "COMFY_ORG_API_KEY"
    """Environment variable with the API key for API nodes; read for each job."""
    preview_size: Annotated[int, Field(ge=16, le=2048)] = 512
    """Maximum width and height of a preview, in pixels."""
    preview_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    """Maximum size of a preview, in bytes; larger ones get a lower quality or are dropped."""

    @classmethod
    def read(cls, options: Mapping[str, JsonValue]) -> "ComfyOptions":
        """Validate ``options``; the path may come from the environment.

        Raises:
            pydantic.ValidationError: An option is unknown or invalid.
            ValueError: No checkout was given.
        """
        read = cls.model_validate(dict(options))
        if read.path is None:
            named = os.environ.get("COMFYUI_PATH")
            if not named:
                raise ValueError(
                    "ComfyUI not found: pass the option path, set COMFYUI_PATH, or run "
                    "`comfysnap comfyui install`"
                )
            read = read.model_copy(update={"path": Path(named)})
        return read.model_copy(update={"path": read.checkout.absolute()})

    @property
    def checkout(self) -> Path:
        """The checkout; an error before ``read`` resolved it."""
        if self.path is None:
            raise ValueError("the option path is not set")
        return self.path
