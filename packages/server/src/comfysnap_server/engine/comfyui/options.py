"""Options of the ComfyUI engine."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue


class ComfyOptions(BaseModel, frozen=True, extra="forbid"):
    """How to load and run a ComfyUI checkout."""

    path: Path | None = None
    """The checkout; None: ``COMFYUI_PATH``."""
    arguments: list[str] = Field(default_factory=list)
    """Command-line arguments as for ``main.py`` (``--use-pytorch-cross-attention``)."""
    api_nodes: bool = False
    """Load the nodes that call paid services of others."""
    custom_nodes: bool = True
    disabled_nodes: list[str] = Field(default_factory=list)
    """Node packs (folder or file names) that are not loaded."""
    after_restore: list[str] = Field(default_factory=list)
    """Node packs that need the GPU when imported: loaded in ``attach``, not in ``load``."""
    extra_model_paths: list[Path] = Field(default_factory=list[Path])
    """Files like ``extra_model_paths.yaml``, besides the checkout's own."""
    preload: list[str] = Field(default_factory=list)
    """Safetensors files, as ``kind/name`` (``checkpoints/x.safetensors``), read into memory."""
    mask_cuda: bool = True
    """Hide CUDA in ``load``, as a snapshot without GPU needs it."""
    warm_imports: bool = True
    """Import in ``load`` what the first job would import."""
    cache_entries: Annotated[int, Field(ge=0)] = 100
    """Node results kept between jobs; models stay loaded while their loader's result is kept."""
    cache_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    """Tensors (images, latents) kept between jobs, in bytes; the oldest go first."""
    free_memory: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Below this share of free memory, only what the last job used is kept."""
    device: Literal["cuda", "cpu"] | None = None
    """``cuda``: attaching without a CUDA device is an error; ``cpu``: no GPU is used; None: what
    there is."""
    api_key_variable: str = "COMFY_ORG_API_KEY"
    """Environment variable with the key that pays for API nodes; read for each job."""
    preview_size: Annotated[int, Field(ge=16, le=2048)] = 512
    """Longest side of a preview, in pixels."""
    preview_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    """Largest preview, in bytes; larger ones are made smaller, then dropped."""

    @classmethod
    def read(cls, options: Mapping[str, JsonValue]) -> "ComfyOptions":
        """Validate ``options``; the path may come from the environment.

        Raises:
            pydantic.ValidationError: An option is unknown or wrong.
            ValueError: No checkout is named.
        """
        read = cls.model_validate(dict(options))
        if read.path is None:
            named = os.environ.get("COMFYUI_PATH")
            if not named:
                raise ValueError(
                    "no ComfyUI: give the option path, set COMFYUI_PATH, or run "
                    "`comfysnap comfyui install`"
                )
            read = read.model_copy(update={"path": Path(named)})
        return read.model_copy(update={"path": read.checkout.absolute()})

    @property
    def checkout(self) -> Path:
        """The checkout, once it is known."""
        if self.path is None:
            raise ValueError("no ComfyUI checkout is named")
        return self.path
