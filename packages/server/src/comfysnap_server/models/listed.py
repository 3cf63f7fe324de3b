"""``[[deploy.models]]``: which model files a deployment needs, and where each comes from."""

import os
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, LiteralString, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_NAME_BYTES: Final = 255
"""Longest name of a file or folder on the file systems in use."""

Source = Literal["huggingface", "civitai", "https"]

DEFAULT_TOKENS: dict[Source, str | None] = {
    "huggingface": "HF_TOKEN",
    "civitai": "CIVITAI_TOKEN",
    "https": None,
}
"""Environment variable that holds the token of a source, when an entry names none."""


def wrong(code: LiteralString, message: str) -> PydanticCustomError:
    """An error for a validator of ``[deploy]`` to raise; ``code`` becomes that of the
    ``SettingsError``."""
    return PydanticCustomError(code, "{message}", {"message": message})


class ModelEntry(BaseModel, frozen=True, extra="forbid"):
    """One model file, or a whole Hugging Face repository laid out like ``models/``.

    Exactly one of ``repo``, ``civitai`` and ``url`` says where it comes from.
    """

    folder: str | None = None
    """Folder of ``models/`` (``checkpoints``, ``loras/sdxl``); only a whole repository may leave it
    out."""
    name: str | None = None
    """File name in the folder; default: the name it has at its source."""
    repo: str | None = None
    """Hugging Face repository, ``owner/name``."""
    file: str | None = None
    """Path in the repository; None: the whole repository, laid out like ``models/``."""
    revision: str | None = None
    """Commit, tag or branch; None: what the repository's main branch holds at each sync."""
    include: list[str] = Field(default_factory=list)
    """Patterns of the files to take of a whole repository; empty: all."""
    civitai: Annotated[int, Field(gt=0)] | None = None
    """Civitai's number of a model version (``modelVersionId`` in its pages' addresses)."""
    url: Annotated[str, Field(max_length=4096)] | None = None
    """A plain https address."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    """Expected content of one file."""
    token: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Environment variable that holds the token; default ``HF_TOKEN``, ``CIVITAI_TOKEN``, none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_source()
        self._check_place()
        return self

    def _check_source(self) -> None:
        given = [key for key in ("repo", "civitai", "url") if getattr(self, key) is not None]
        if len(given) != 1:
            raise wrong(
                "model_source", "say where it comes from by exactly one of repo, civitai and url"
            )
        if self.repo is not None and self.repo.count("/") != 1:
            raise wrong("model_source", "a Hugging Face repository is owner/name")
        if self.url is not None:
            self._check_url(urlsplit(self.url))
        for key in ("file", "revision", "include"):
            if getattr(self, key) and self.repo is None:
                raise wrong("model_source", f"{key} goes with repo only")
        if self.include and self.file is not None:
            raise wrong("model_source", "include goes with a whole repository only")

    def _check_url(self, url: SplitResult) -> None:
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise wrong("model_source", "url must start with https://")
        if url.username or url.password:
            raise wrong("model_source", "name a variable in token instead of writing it into url")
        loopback = url.hostname in {"127.0.0.1", "localhost", "::1"}
        if url.scheme == "http" and not (self.sha256 or loopback):
            raise wrong("model_source", "http:// protects nothing; use https://, or give sha256")

    def _check_place(self) -> None:
        whole = self.whole_repository
        if self.folder is None and not whole:
            raise wrong(
                "model_without_folder",
                'say which folder of models/ it goes to, as folder = "checkpoints"',
            )
        for key in ("folder", "name"):
            value: str | None = getattr(self, key)
            if value is not None and not is_safe_path(value):
                raise wrong("unsafe_path", f"{key} must be a relative path inside models/")
        if not whole and self.file_name and not is_safe_path(self.file_name):
            raise wrong("unsafe_path", f"{self.file_name!r} names no file; give name")
        if whole and (self.name or self.sha256):
            raise wrong("model_source", "name and sha256 go with one file only")
        if self.civitai is not None and self.name is None:
            raise wrong(
                "model_without_name", "give name: Civitai tells the file name only at the download"
            )
        if not whole and not self.file_name:
            raise wrong("model_without_name", "give name: the address ends without a file name")

    @property
    def whole_repository(self) -> bool:
        """Whether the entry stands for every file of a repository."""
        return self.repo is not None and self.file is None

    @property
    def source(self) -> Source:
        """Which kind of server holds it."""
        if self.repo is not None:
            return "huggingface"
        return "https" if self.civitai is None else "civitai"

    @property
    def token_variable(self) -> str | None:
        """Environment variable that may hold the token."""
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
        """Where the file lies below ``models/``; None for a whole repository."""
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
    """Whether ``text`` is a relative path that stays in its folder."""
    path = PurePosixPath(text)
    return bool(text) and not (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or "\\" in text
        or "\0" in text
        or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts)
    )
