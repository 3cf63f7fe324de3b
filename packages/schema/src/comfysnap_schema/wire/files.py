"""Files on the wire: what a client may pass as an input and what a job returns."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Protocol, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    GetPydanticSchema,
    PrivateAttr,
    TypeAdapter,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from comfysnap_schema.wire.kinds import Kind as Kind
from comfysnap_schema.wire.routes import SHA256_PATTERN

if TYPE_CHECKING:
    from PIL import Image


class FileBySha256(BaseModel, frozen=True, extra="forbid"):
    """A file uploaded earlier, identified by the hash of its content."""

    sha256: Annotated[str, Field(pattern=SHA256_PATTERN)]


class FileByUrl(BaseModel, frozen=True, extra="forbid"):
    """A file that the server downloads from a public http(s) URL."""

    url: Annotated[str, Field(pattern=r"^https?://", max_length=4096)]


class ModelUrl(BaseModel, frozen=True, extra="forbid", defer_build=True):
    """A model file that the server downloads from a host that it allows, and keeps for later jobs.

    Example: ``ModelUrl(url="https://huggingface.co/OWNER/NAME/resolve/main/x.safetensors")``
    """

    url: Annotated[str, Field(pattern=r"^https?://", max_length=4096)]
    """Of a safetensors file."""
    sha256: Annotated[str, Field(pattern=SHA256_PATTERN)] | None = None
    """The expected hash, in lower-case hex. With it, a file that the server keeps is used without
    asking the host."""


class FileInline(BaseModel, frozen=True, extra="forbid"):
    """A small file inside the request."""

    data: str
    """Base64."""
    content_type: Annotated[str, Field(max_length=256)] = "application/octet-stream"


FileRef = FileBySha256 | FileByUrl | FileInline
"""An input file on the wire."""

_FILE_REF: TypeAdapter[FileRef] = TypeAdapter(FileRef)


def _file_input(value: Any) -> Any:
    """Accept every form that a caller may pass; the client uploads it."""
    if isinstance(value, (Path, bytes, FileBySha256, FileByUrl, FileInline)):
        return value
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return FileByUrl(url=value)
    if hasattr(value, "read"):
        return value
    if isinstance(value, dict):
        return _FILE_REF.validate_python(value)
    raise PydanticCustomError(
        "file_input",
        "Input should be a pathlib.Path, bytes, an open binary file or an http(s):// URL"
        + ("; pass a path as Path(...)" if isinstance(value, str) else ""),
    )


def _file_input_schema(_source: Any, _handler: Any) -> core_schema.CoreSchema:
    return core_schema.no_info_plain_validator_function(
        _file_input, json_schema_input_schema=_FILE_REF.core_schema
    )


FileInput = Annotated[
    Path | bytes | BinaryIO | str | FileBySha256 | FileByUrl | FileInline,
    GetPydanticSchema(_file_input_schema),
]
"""A file as a caller passes it: a path, bytes, an open binary file, or a ``str`` with a URL."""


def _model_input(value: Any) -> Any:
    """Also accept a URL as text, and an object as it is on the wire."""
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return ModelUrl(url=value)
    return ModelUrl.model_validate(value) if isinstance(value, dict) else value


ModelInput = Annotated[str | ModelUrl, BeforeValidator(_model_input)]
"""A model as a caller passes it: a file name that ComfyUI knows, or a URL, with or without a
hash."""


class FileReader(Protocol):
    """Reads output files; a client binds one to every file it returns."""

    async def read(self, file: "OutputFile") -> bytes:
        """The whole content."""
        ...

    async def save(self, file: "OutputFile", path: Path) -> Path:
        """Write to ``path`` (into it, if it is a folder) atomically; return the file."""
        ...

    def stream(self, file: "OutputFile") -> AsyncGenerator[bytes]:
        """The content in chunks."""
        ...


class FileNotBoundError(Exception):
    """The file was not returned by a client, so it cannot be downloaded."""


READER_CONTEXT = "comfysnap_file_reader"
"""Key of the validation context under which a client passes its ``FileReader``."""


class OutputFile(BaseModel, extra="ignore"):
    """A file that a job produced. Nothing is downloaded until ``read``, ``save`` or ``stream``.

    These raise ``FileNotBoundError`` if the file was not returned by a client.
    """

    name: str
    """Unique within the job."""
    kind: Annotated[Kind | str, Field(union_mode="left_to_right")]
    content_type: str
    size: int
    """Bytes."""
    sha256: str
    url: str
    """Relative to the server's base address, or absolute when signed."""

    _reader: FileReader | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _bind(self, info: ValidationInfo) -> Self:
        context = cast("dict[str, Any] | None", info.context)
        if context and READER_CONTEXT in context:
            self._reader = context[READER_CONTEXT]
        return self

    @property
    def _bound(self) -> FileReader:
        if self._reader is None:
            raise FileNotBoundError(
                f"{self.name} was not returned by a client, so it cannot be downloaded"
            )
        return self._reader

    async def read(self) -> bytes:
        """Download the whole file into memory."""
        return await self._bound.read(self)

    async def save(self, path: str | Path) -> Path:
        """Download to ``path``: atomic, resumed when the connection breaks, checked by hash.

        Args:
            path: A file name, or an existing folder (the file then keeps its own name).
        """
        return await self._bound.save(self, Path(path))

    def stream(self) -> AsyncGenerator[bytes]:
        """Download in chunks."""
        return self._bound.stream(self)


# What ComfyUI's nodes save; some of Pillow's other formats start programs (EPS starts Ghostscript).
_STILL_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")


class ImageFile(OutputFile, extra="ignore"):
    """A still image or a mask."""

    async def image(self) -> "Image.Image":
        """Download and decode into a Pillow image; needs Pillow.

        Raises:
            PIL.UnidentifiedImageError: Pillow cannot read it.
        """
        import asyncio
        import io

        from PIL import Image

        content = await self.read()

        def decode() -> Image.Image:
            opened = Image.open(io.BytesIO(content), formats=_STILL_FORMATS)
            opened.load()
            return opened

        return await asyncio.to_thread(decode)


class AnimationFile(OutputFile, extra="ignore"):
    """An animated image (WebP, GIF, APNG)."""


class VideoFile(OutputFile, extra="ignore"):
    """A video."""


class AudioFile(OutputFile, extra="ignore"):
    """A sound file."""


class Model3DFile(OutputFile, extra="ignore"):
    """A 3D model."""
