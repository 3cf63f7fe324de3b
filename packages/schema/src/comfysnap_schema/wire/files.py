"""Files on the wire: what a client may give as an input and what a job hands back."""

from collections.abc import AsyncGenerator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Protocol, Self, cast

from pydantic import (
    BaseModel,
    Field,
    GetPydanticSchema,
    PrivateAttr,
    TypeAdapter,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from comfysnap_schema.wire.routes import SHA256_PATTERN

if TYPE_CHECKING:
    from PIL import Image


class Kind(StrEnum):
    """What an input or an output is."""

    IMAGE = "image"
    MASK = "mask"
    ANIMATION = "animation"
    VIDEO = "video"
    AUDIO = "audio"
    MODEL_3D = "3d"
    FILE = "file"
    TEXT = "text"
    JSON = "json"


FILE_KINDS = frozenset(set(Kind) - {Kind.TEXT, Kind.JSON})
"""Kinds that travel as files."""


class FileBySha256(BaseModel, frozen=True, extra="forbid"):
    """A file that was uploaded before, named by its content."""

    sha256: Annotated[str, Field(pattern=SHA256_PATTERN)]


class FileByUrl(BaseModel, frozen=True, extra="forbid"):
    """A file that the server fetches from a public http(s) address."""

    url: Annotated[str, Field(pattern=r"^https?://", max_length=4096)]


class FileInline(BaseModel, frozen=True, extra="forbid"):
    """A small file inside the request."""

    data: str
    """Base64."""
    content_type: Annotated[str, Field(max_length=256)] = "application/octet-stream"


FileRef = FileBySha256 | FileByUrl | FileInline
"""An input file on the wire."""

_FILE_REF: TypeAdapter[FileRef] = TypeAdapter(FileRef)


def _file_input(value: Any) -> Any:
    """Accept what a client may hold; uploading it is the client's work."""
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
        "Input should be a pathlib.Path, bytes, an open binary file or an http(s):// address"
        + ("; a path is given as Path(...)" if isinstance(value, str) else ""),
    )


def _file_input_schema(_source: Any, _handler: Any) -> core_schema.CoreSchema:
    return core_schema.no_info_plain_validator_function(
        _file_input, json_schema_input_schema=_FILE_REF.core_schema
    )


FileInput = Annotated[
    Path | bytes | BinaryIO | str | FileBySha256 | FileByUrl | FileInline,
    GetPydanticSchema(_file_input_schema),
]
"""A file as a caller gives it: a path, bytes, an open binary file, or a ``str`` with a URL."""


class FileReader(Protocol):
    """Reads output files; a client binds one to every file it hands out."""

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
    """The file was not made by a client, so there is nowhere to read it from."""


READER_CONTEXT = "comfysnap_file_reader"
"""Key of the validation context under which a client passes its ``FileReader``."""


class OutputFile(BaseModel, extra="ignore"):
    """A file that a job made. Nothing is downloaded before it is asked for."""

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
            raise FileNotBoundError(f"{self.name} was not handed out by a client")
        return self._reader

    async def read(self) -> bytes:
        """Download the whole file into memory.

        Raises:
            FileNotBoundError: The file was not handed out by a client.
        """
        return await self._bound.read(self)

    async def save(self, path: str | Path) -> Path:
        """Download to ``path``: atomic, resumed when the connection breaks, checked by hash.

        Args:
            path: A file name, or an existing folder (the file then keeps its own name).

        Raises:
            FileNotBoundError: The file was not handed out by a client.
        """
        return await self._bound.save(self, Path(path))

    def stream(self) -> AsyncGenerator[bytes]:
        """Download in chunks.

        Raises:
            FileNotBoundError: The file was not handed out by a client.
        """
        return self._bound.stream(self)


class ImageFile(OutputFile, extra="ignore"):
    """A still image or a mask."""

    async def image(self) -> "Image.Image":
        """Download and decode into a Pillow image; needs Pillow.

        Raises:
            FileNotBoundError: The file was not handed out by a client.
            PIL.UnidentifiedImageError: Pillow cannot read it.
        """
        import asyncio
        import io

        from PIL import Image

        content = await self.read()

        def decode() -> Image.Image:
            opened = Image.open(io.BytesIO(content))
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
