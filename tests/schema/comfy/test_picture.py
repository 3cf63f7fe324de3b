"""Workflows inside of pictures and videos.

``saved`` has files that nodes of ComfyUI 0.33.0 wrote (still, animated, video), and files whose
metadata ffmpeg wrote as node packs let it (comment, tagged).
"""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy.graph import MAX_GRAPH_BYTES
from comfysnap_schema.comfy.picture import MAX_PARTS, read_editor_workflow, read_saved
from comfysnap_schema.comfy.ui_export import read_export
from comfysnap_schema.wire.errors import GraphError

SAVED = Path(__file__).with_name("saved")
GRAPH: dict[str, Any] = {"1": {"class_type": "Save", "inputs": {"text": "é 猫"}}}
UI: dict[str, Any] = {"nodes": [], "links": []}
PROMPT = json.dumps(GRAPH, ensure_ascii=False).encode()
PLAIN = json.dumps(GRAPH).encode()
Put = Callable[[bytes], Path]


def short(value: object) -> str:
    """The id of a test: its files are too long for one."""
    return value if isinstance(value, str) else "file"


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes a file."""

    def write(data: bytes) -> Path:
        (tmp_path / "picture").write_bytes(data)
        return tmp_path / "picture"

    return write


@pytest.mark.parametrize(
    "name", ["still.png", "animated.png", "animated.webp", "video.mp4", "video.webm"]
)
def test_what_comfyui_saves_holds_the_graph_it_ran(name: str) -> None:
    graph = read_export(SAVED / name, None)
    assert [node["class_type"] for node in graph.values()] == [
        "EmptyImage", "EmptyImage", "SaveImage", "SaveAnimatedWEBP", "SaveAnimatedPNG", "SaveWEBM",
        "CreateVideo", "SaveVideo",
    ]  # fmt: skip
    assert graph["1"].get("_meta") == {"title": "Vide é 猫"}


@pytest.mark.parametrize("name", ["comment.mp4", "comment.mkv", "tagged.mov"])
def test_other_ways_to_save_it_are_read(name: str) -> None:
    graph = read_export(SAVED / name, None)
    assert [node["class_type"] for node in graph.values()] == ["EmptyImage", "SaveImage"]


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in ((b"IHDR", bytes(13)), *chunks, (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        parts += [struct.pack(">I", len(data)), kind, data, crc]
    return b"".join(parts)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"tEXt", b"prompt\0" + PROMPT),
        (b"tEXt", b"prompt\0" + PLAIN),
        (b"zTXt", b"prompt\0\0" + zlib.compress(PROMPT)),
        (b"iTXt", b"prompt\0\0\0en\0Prompt\0" + PROMPT),
        (b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(PROMPT)),
        (b"comf", b"prompt\0" + PROMPT),
    ],
    ids=short,
)
def test_every_text_chunk_of_a_png_is_read(put: Put, kind: bytes, data: bytes) -> None:
    assert read_saved(put(png((b"IDAT", bytes(99)), (kind, data)))) == GRAPH


def test_a_text_that_is_not_utf8_is_latin1(put: Put) -> None:
    text = b'prompt\0{"1": {"class_type": "Save", "inputs": {"text": "\xe9"}}}'
    assert read_saved(put(png((b"tEXt", text))))["1"]["inputs"]["text"] == "é"


def test_nan_in_a_saved_graph_does_not_stop_it(put: Put) -> None:
    node = b'{"class_type": "Save", "inputs": {}, "is_changed": [NaN]}'
    data = png((b"tEXt", b'prompt\0{"1": ' + node + b"}"))
    assert read_export(put(data), None) == {"1": {"class_type": "Save", "inputs": {}}}


def test_without_a_prompt_the_editors_workflow_is_used(put: Put) -> None:
    workflow = (b"tEXt", b"workflow\0" + json.dumps(UI).encode())
    assert read_saved(put(png(workflow))) == UI
    for text in (b"a cat", b"{}", b"[]"):
        assert read_saved(put(png((b"tEXt", b"prompt\0" + text), workflow))) == UI
    assert read_saved(put(png((b"tEXt", b"prompt\0" + PLAIN), workflow))) == GRAPH


def webp(exif: bytes) -> bytes:
    chunks = b"VP8 " + struct.pack("<I", 3) + bytes(4) + b"EXIF" + struct.pack("<I", len(exif))
    return b"RIFF" + struct.pack("<I", 4 + len(chunks) + len(exif)) + b"WEBP" + chunks + exif


def exif(order: str, text: bytes, kind: int = 2) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    tag = struct.pack(f"{order}HHHII", 1, 0x0110, kind, len(text), 26)
    return mark + struct.pack(f"{order}I", 8) + tag + bytes(4) + text


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("start", [b"", b"Exif\0\0"])
def test_the_exif_of_a_webp_is_read(put: Put, order: str, start: bytes) -> None:
    data = webp(start + exif(order, b"prompt:" + PROMPT + b"\0"))
    assert read_saved(put(data)) == GRAPH


def box(kind: bytes, *content: bytes, size: int | None = None) -> bytes:
    data = b"".join(content)
    return struct.pack(">I4s", 8 + len(data) if size is None else size, kind) + data


def large_box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content


FTYP = box(b"ftyp", b"isom")
HDLR = box(b"hdlr", bytes(24))
COMMENT = json.dumps({"prompt": GRAPH, "workflow": json.dumps(UI)}).encode()


def tagged(value: bytes) -> bytes:
    keys = box(b"keys", bytes(4), b"\0\0\0\1", box(b"mdta", b"prompt"))
    item = box(b"\0\0\0\1", box(b"data", bytes(8), value), box(b"data", b"short"))
    other = box(b"\0\0\0\7", box(b"data", bytes(8), b"x"))
    return HDLR + keys + box(b"ilst", item, other)


@pytest.mark.parametrize(
    "moov",
    [
        box(b"moov", box(b"udta", box(b"meta", bytes(4), tagged(PROMPT)))),
        box(b"moov", box(b"meta", tagged(PROMPT))),
        large_box(b"moov", box(b"meta", bytes(4), tagged(PROMPT))),
        box(b"moov", box(b"meta", tagged(PROMPT)), size=0),
        box(b"moov", box(b"udta", box(b"\xa9cmt", bytes(4), COMMENT), box(b"name", b"x"))),
        box(b"moov", box(b"trak"), box(b"meta"), box(b"udta", box(b"\xa9cmt", bytes(4), COMMENT))),
    ],
    ids=short,
)
def test_the_tags_of_mp4_and_mov_are_read(put: Put, moov: bytes) -> None:
    assert read_saved(put(FTYP + box(b"mdat", bytes(99)) + moov)) == GRAPH


def element(kind: str, content: bytes, size: bytes | None = None) -> bytes:
    length = struct.pack(">I", 0x10000000 | len(content)) if size is None else size
    return bytes.fromhex(kind) + length + content


UNKNOWN = b"\x01" + b"\xff" * 7
EBML = element("1a45dfa3", bytes(4))


def tags(name: bytes, text: bytes) -> bytes:
    simple = element("67c8", element("45a3", name) + element("4487", text))
    return element("1254c367", element("7373", element("63c0", b"") + simple))


@pytest.mark.parametrize("size", [None, UNKNOWN])
def test_the_tags_of_webm_are_read(put: Put, size: bytes | None) -> None:
    nameless = element("1254c367", element("7373", element("67c8", element("45a3", b"PROMPT"))))
    content = nameless + tags(b"TITLE", b"x") + tags(b"PROMPT", PROMPT)
    live = element("1f43b675", bytes(9), UNKNOWN)
    assert read_saved(put(EBML + element("18538067", content + live, size))) == GRAPH


BOMB = zlib.compress(bytes(MAX_GRAPH_BYTES + 1))
GOOD_PNG = png((b"tEXt", b"prompt\0" + PROMPT))
ZIPPED = zlib.compress(PROMPT)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (png(), "no_workflow"),
        (png((b"tEXt", b"parameters\0a cat")), "no_workflow"),
        (png((b"tEXt", b"prompt\0{")), "no_workflow"),
        (png((b"tEXt", b"prompt\0" + b"[" * 99_999)), "no_workflow"),
        (GOOD_PNG.replace("é".encode(), b"ee"), "invalid_picture"),
        (GOOD_PNG[:60], "invalid_picture"),
        (GOOD_PNG[:10], "invalid_picture"),
        (GOOD_PNG[:33] + b"\xff\xff\xff\xfftEXtprompt\0", "invalid_picture"),
        (png((b"zTXt", b"prompt\0\0" + BOMB)), "too_large"),
        (png((b"iTXt", b"prompt\0\1\0\0\0" + BOMB)), "too_large"),
        (png(*[(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(15 << 20)))] * 5), "too_large"),
        (png((b"tEXt", b"prompt\0" + bytes(MAX_GRAPH_BYTES))), "too_large"),
        (png((b"zTXt", b"prompt\0\0" + b"packed")), "invalid_picture"),
        (png((b"zTXt", b"prompt\0\0" + ZIPPED[:-9])), "invalid_picture"),
        (webp(exif("<", b"prompt:" + PROMPT)[:12]), "invalid_picture"),
        (webp(b"no exif"), "invalid_picture"),
        (webp(exif("<", b"prompt:" + PROMPT))[:-9], "invalid_picture"),
        (webp(exif("<", b"prompt:" + PROMPT, kind=7)), "no_workflow"),
        (webp(exif("<", b"Camera")), "no_workflow"),
        (FTYP, "no_workflow"),
        (FTYP + box(b"moov", box(b"udta", box(b"\xa9cmt", b"abcd{}"))), "no_workflow"),
        (FTYP + box(b"moov", size=4), "invalid_picture"),
        (FTYP + box(b"moov", size=4000), "invalid_picture"),
        (FTYP + b"\0\0\0\1moov", "invalid_picture"),
        (FTYP + box(b"free") * (MAX_PARTS + 1), "too_large"),
        (EBML, "no_workflow"),
        (EBML + b"\0", "invalid_picture"),
        (EBML + b"\xff\x81\0", "invalid_picture"),
        (EBML + b"\x18\x53", "invalid_picture"),
        (EBML + element("18538067", b"", b"\x88"), "invalid_picture"),
    ],
    ids=short,
)
def test_a_picture_without_a_workflow_or_a_hostile_one_is_rejected(
    put: Put, data: bytes, code: str
) -> None:
    path = put(data)
    with pytest.raises(GraphError) as caught:
        read_saved(path)
    assert (caught.value.code, caught.value.file) == (code, str(path))


def test_a_file_that_is_no_picture_is_read_as_json(put: Put, tmp_path: Path) -> None:
    assert read_saved(put(json.dumps({"input": {"workflow": GRAPH}}).encode())) == GRAPH
    with pytest.raises(GraphError) as caught:
        read_saved(tmp_path / "gone.png")
    assert caught.value.code == "unreadable"
    with pytest.raises(GraphError) as caught:
        read_saved(put(b"RIFF1234WAVE"))
    assert caught.value.code == "invalid_json"


DRAWN: dict[str, Any] = {"nodes": [{"id": 1}], "links": []}


@pytest.mark.parametrize(
    "data",
    [
        DRAWN,
        {"workflow": DRAWN, "output": {}},
        {"prompt": {}, "extra_data": {"extra_pnginfo": {"workflow": DRAWN}}},
        {"input": {"workflow": DRAWN}},
        {"comment": json.dumps({"workflow": json.dumps(DRAWN)})},
        {"0b1c": {"prompt": [5, "0b1c", {}, {"extra_pnginfo": {"workflow": DRAWN}}, ["9"]]}},
    ],
)
def test_the_editors_workflow_is_found_in_what_it_is_kept_in(tmp_path: Path, data: Any) -> None:
    file = tmp_path / "saved.json"
    file.write_text(json.dumps(data))
    assert read_editor_workflow(file) == DRAWN


@pytest.mark.parametrize(
    "data",
    [{"1": {"class_type": "A", "inputs": {}}}, {"workflow": "not json"}, [],
     {"input": {"input": {"input": {"input": {"input": {"input": {"workflow": DRAWN}}}}}}}],
)  # fmt: skip
def test_a_graph_alone_has_no_editors_workflow(tmp_path: Path, data: Any) -> None:
    file = tmp_path / "saved.json"
    file.write_text(json.dumps(data))
    assert read_editor_workflow(file) is None


def test_the_editors_workflow_is_read_of_a_picture_and_a_missing_file_is_an_error(
    tmp_path: Path,
) -> None:
    assert read_editor_workflow(SAVED / "still.png") is not None
    with pytest.raises(GraphError) as caught:
        read_editor_workflow(tmp_path / "missing.json")
    assert caught.value.code == "unreadable"
