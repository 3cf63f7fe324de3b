"""Where the models and node packs of a workflow come from, in the forms that a deployment reads."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from comfysnap_schema.comfy import ModelSource, UsedPack

SOURCES_FILE: Final = "models.toml"
"""In a workflow folder: the model files that its export names, as ``[[deploy.models]]``."""

_HUGGING_FACE: Final = re.compile(
    r"/(?P<repo>[^/]+/[^/]+)/(resolve|blob|raw)/(?P<revision>[^/]+)/(?P<file>.+)"
)
_CIVITAI: Final = re.compile(r"/api/download/models/(?P<version>\d+)")
_SAFE: Final = re.compile(r"(?!\.)[^/\\\0]{1,255}")
_VERSION: Final = re.compile(r"[0-9][0-9A-Za-z.+-]{0,63}")
_COMMIT: Final = re.compile(r"[0-9a-f]{7,40}")
_PACK_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def model_tables(models: Iterable[ModelSource]) -> list[dict[str, Any]]:
    """The entries of ``[[deploy.models]]``, without URLs and names that a deployment refuses."""
    return [table for model in models if (table := _table(model)) is not None]


def tables_text(tables: Iterable[Mapping[str, Any]]) -> str:
    """TOML to paste into ``comfysnap.toml``."""
    import tomlkit

    return "\n".join(tomlkit.dumps({"deploy": {"models": [dict(table)]}}) for table in tables)


def place_of(table: Mapping[str, Any]) -> tuple[str, str]:
    """The folder and file name in ``models/`` of an entry of ``[[deploy.models]]``."""
    url = unquote(urlsplit(str(table.get("url", ""))).path)
    name = str(table.get("name") or table.get("file") or url)
    return str(table.get("folder", "")), name.rpartition("/")[2]


def read_tables(folder: Path) -> list[dict[str, Any]]:
    """The entries in the ``models.toml`` of a workflow folder; none without a readable one."""
    import tomllib

    try:
        data = tomllib.loads((folder / SOURCES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    deploy = data.get("deploy")
    found = cast("dict[str, Any]", deploy).get("models") if isinstance(deploy, dict) else None
    if not isinstance(found, list):
        return []
    tables = cast("list[object]", found)
    return [cast("dict[str, Any]", table) for table in tables if isinstance(table, dict)]


def tables_to_add(folder: Path, deploy: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries in the ``models.toml`` of a workflow folder whose places ``[deploy]`` lacks."""
    listed: object = deploy.get("models")
    entries = cast("list[object]", listed) if isinstance(listed, list) else []
    places = {
        place_of(cast("dict[str, Any]", entry)) for entry in entries if isinstance(entry, dict)
    }
    return [table for table in read_tables(folder) if place_of(table) not in places]


def _table(model: ModelSource) -> dict[str, Any] | None:
    folders = model.folder.split("/")
    if not all(_SAFE.fullmatch(part) for part in (*folders, model.name)):
        return None
    try:
        url = urlsplit(model.url)
    except ValueError:
        return None
    if url.scheme not in ("https", "http") or not url.hostname or url.username or url.password:
        return None
    if url.scheme == "http" and model.sha256 is None:
        return None
    source = _source(url)
    table: dict[str, Any] = {"folder": model.folder, **source}
    if "civitai" in source or place_of(table)[1] != model.name:
        table["name"] = model.name
    return table | ({"sha256": model.sha256} if model.sha256 else {})


def _source(url: SplitResult) -> dict[str, Any]:
    found = _HUGGING_FACE.fullmatch(unquote(url.path))
    if url.hostname in ("huggingface.co", "hf.co") and found and found["repo"].count("/") == 1:
        revision = {} if found["revision"] == "main" else {"revision": found["revision"]}
        return {"repo": found["repo"], "file": found["file"]} | revision
    civitai = _CIVITAI.fullmatch(url.path)
    if url.hostname in ("civitai.com", "www.civitai.com") and civitai:
        return {"civitai": int(civitai["version"])}
    query = [(key, value) for key, value in parse_qsl(url.query) if key != "token"]
    return {"url": url._replace(query=urlencode(query), fragment="").geturl()}


def snapshot(packs: Iterable[UsedPack]) -> tuple[dict[str, Any], list[UsedPack]]:
    """The content of a ``snapshot.json`` of ComfyUI-Manager, and the packs that it cannot pin: the
    export does not have a version of the registry, or a commit and its repository."""
    git: dict[str, Any] = {}
    registry: dict[str, str] = {}
    unpinned: list[UsedPack] = []
    for pack in packs:
        if _PACK_ID.fullmatch(pack.id) and _VERSION.fullmatch(pack.version) and "." in pack.version:
            registry[pack.id] = pack.version
        elif pack.repo and _COMMIT.fullmatch(pack.version):
            entry = {"hash": pack.version, "disabled": False}
            git[f"https://github.com/{pack.repo}"] = entry
        else:
            unpinned.append(pack)
    content = {"git_custom_nodes": git, "cnr_custom_nodes": registry}
    return {key: value for key, value in content.items() if value}, unpinned
