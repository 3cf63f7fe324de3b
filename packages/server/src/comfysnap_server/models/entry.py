"""``[[deploy.models]]``: the model files of a deployment and their sources."""

import os
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import BaseModel, Field, model_validator

from comfysnap_schema.workflow import setting_error

MAX_NAME_BYTES: Final = 255
"""Maximum length of a file or folder name on common file systems."""

Source = Literal["huggingface", "civitai", "https"]

DEFAULT_TOKENS: dict[Source, str | None] = {
    "huggingface": "HF_TOKEN",
    "civitai": "CIVITAI_TOKEN",
    "https": None,
}
"""Source to the environment variable with its token, for entries without ``token``."""


class ModelEntry(BaseModel, frozen=True, extra="forbid"):
    """One model file, or a whole Hugging Face repository laid out like ``models/``.

    Exactly one of ``repo``, ``civitai`` and ``url`` is set.
    """

    folder: str | None = None
    """Folder of ``models/`` (``checkpoints``, ``loras/sdxl``). Optional only for a whole
    repository."""
    name: str | None = None
    """File name in the folder. Default: its name at the source."""
    repo: str | None = None
    """Hugging Face repository, ``owner/name``."""
    file: str | None = None
    """Path in the repository. None: the whole repository, laid out like ``models/``."""
    revision: str | None = None
    """Commit, tag or branch. None: the main branch at the time of each sync."""
    include: list[str] = Field(default_factory=list)
    """Glob patterns of the files to download from a whole repository. Empty: all files."""
    civitai: Annotated[int, Field(gt=0)] | None = None
    """Civitai model version id (``modelVersionId`` in the page's URL)."""
    url: Annotated[str, Field(max_length=4096)] | None = None
    """URL of the file. http:// is allowed with ``sha256`` or for loopback."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    """Expected SHA-256 of the file, in hex."""
    token: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Environment variable with the token. Default: ``HF_TOKEN`` for ``repo``, ``CIVITAI_TOKEN``
    for ``civitai``, none for ``url``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_source()
        self._check_place()
        return self

    def _check_source(self) -> None:
        given = [key for key in ("repo", "civitai", "url") if getattr(self, key) is not None]
        if len(given) != 1:
            raise setting_error("model_source", "set exactly one of repo, civitai and url")
        if self.repo is not None and self.repo.count("/") != 1:
            raise setting_error("model_source", f"repo must be owner/name, got {self.repo!r}")
        if self.url is not None:
            self._check_url(urlsplit(self.url))
        for key in ("file", "revision", "include"):
            if getattr(self, key) and self.repo is None:
                raise setting_error("model_source", f"{key} is only allowed with repo")
        if self.include and self.file is not None:
            raise setting_error(
                "model_source", "include is only allowed for a whole repository, without file"
            )

    def _check_url(self, url: SplitResult) -> None:
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise setting_error("model_source", "url must start with https://")
        if url.username or url.password:
            raise setting_error(
                "model_source",
                "url must not contain credentials; set token to the name of a variable",
            )
        loopback = url.hostname in {"127.0.0.1", "localhost", "::1"}
        if url.scheme == "http" and not (self.sha256 or loopback):
            raise setting_error("model_source", "url must start with https://, or set sha256")

    def _check_place(self) -> None:
        whole = self.whole_repository
        if self.folder is None and not whole:
            raise setting_error(
                "model_without_folder",
                'missing folder of models/, for example folder = "checkpoints"',
            )
        for key in ("folder", "name"):
            value: str | None = getattr(self, key)
            if value is not None and not is_safe_path(value):
                raise setting_error("unsafe_path", f"{key} must be a relative path inside models/")
        if not whole and self.file_name and not is_safe_path(self.file_name):
            raise setting_error(
                "unsafe_path", f"{self.file_name!r} is not a valid file name; set name"
            )
        if whole and (self.name or self.sha256):
            raise setting_error(
                "model_source", "name and sha256 are only allowed for a single file"
            )
        if self.civitai is not None and self.name is None:
            raise setting_error("model_without_name", "missing name: it is required with civitai")
        if not whole and not self.file_name:
            raise setting_error(
                "model_without_name", "missing name: url does not end with a file name"
            )

    @property
    def whole_repository(self) -> bool:
        """Whether the entry is a whole repository."""
        return self.repo is not None and self.file is None

    @property
    def source(self) -> Source:
        """Kind of source."""
        if self.repo is not None:
            return "huggingface"
        return "https" if self.civitai is None else "civitai"

    @property
    def token_variable(self) -> str | None:
        """Environment variable with the token; None if the source needs none."""
        return self.token or DEFAULT_TOKENS[self.source]

    @property
    def file_name(self) -> str:
        """File name in the folder; empty for a whole repository."""
        if self.name is not None:
            return self.name
        path = self.file if self.repo is not None else unquote(urlsplit(self.url or "").path)
        return (path or "").rpartition("/")[2]

    @property
    def path(self) -> PurePosixPath | None:
        """Path inside ``models/``; None for a whole repository."""
        return None if self.whole_repository else PurePosixPath(self.folder or "", self.file_name)

    def __str__(self) -> str:
        """The source in one line, without tokens or query."""
        if self.repo is not None:
            revision = f"@{self.revision}" if self.revision else ""
            return f"{self.repo}{revision}" + (f":{self.file}" if self.file else "")
        if self.civitai is not None:
            return f"civitai:{self.civitai}"
        return urlsplit(self.url or "")._replace(query="", fragment="").geturl()


def is_safe_path(text: str) -> bool:
    """Whether ``text`` is a relative path without ``..`` and with valid names."""
    path = PurePosixPath(text)
    return bool(text) and not (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or "\\" in text
        or "\0" in text
        or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts)
    )
