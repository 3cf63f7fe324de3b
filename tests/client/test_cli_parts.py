"""What the commands read and show."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfysnap_client.cli_inputs import WrongInputs, parse_inputs
from comfysnap_client.cli_show import describe, job_lines, preview_protocol, preview_text
from comfysnap_schema.files import FileByUrl
from comfysnap_schema.jobs import JobRecord, Preview, Progress
from tests.client.fakes import CONTRACT

SCHEMA: dict[str, Any] = CONTRACT["input_schema"]
NOW = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("prompt=a=b", "a=b"),
        ("prompt=", ""),
        ("steps=-3", -3),
        ("scale=1.5", 1.5),
        ("tiled=on", True),
        ("tiled=0", False),
        ("sampler=heun", "heun"),
        ("seed=18446744073709551615", 18446744073709551615),
        ("image=https://example.com/x.png", FileByUrl(url="https://example.com/x.png")),
        ('extra={"a": [1]}', {"a": [1]}),
        ("extra=plain", "plain"),
    ],
)
def test_values_are_read_by_their_type(word: str, value: object) -> None:
    inputs = parse_inputs(["prompt=x", word] if not word.startswith("prompt") else [word], SCHEMA)
    assert inputs[word.split("=")[0]] == value


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("steps=1.5", "steps"),
        ("scale=nan", "scale"),
        ("scale=much", "scale"),
        ("tiled=maybe", "tiled"),
        ("sampler=eular", "sampler"),
        ("sampler=zzz", "sampler"),
        ("image=@nowhere.png", "image"),
        ("image=", "image"),
        ("zzzzzz=1", "zzzzzz"),
        ("prompt=twice", "prompt"),
        ("bare", "bare"),
    ],
)
def test_each_mistake_is_told_on_its_field(word: str, field: str) -> None:
    with pytest.raises(WrongInputs) as caught:
        parse_inputs(["prompt=x", word], SCHEMA)
    assert [found.field for found in caught.value.fields] == [field]


def test_a_workflow_without_inputs_takes_none() -> None:
    assert parse_inputs([], {}) == {}
    with pytest.raises(WrongInputs):
        parse_inputs(["a=1"], {})


def test_a_file_is_taken_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.touch()
    assert parse_inputs(["prompt=x", f"image=@{path}"], SCHEMA)["image"] == path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "1"}, None),
    ],
)
def test_previews_are_for_terminals_that_can_show_them(
    environ: dict[str, str], protocol: str | None
) -> None:
    assert preview_protocol(environ, Terminal()) == protocol
    assert preview_protocol(environ, io.StringIO()) is None


def picture(kind: str, size: int = 8) -> Preview:
    made = io.BytesIO()
    Image.effect_noise((size, size), 90).convert("RGB").save(made, kind)
    data = base64.b64encode(made.getvalue()).decode()
    return Preview(content_type=f"image/{kind.lower()}", data=data)


def test_a_frame_becomes_what_the_terminal_takes() -> None:
    assert preview_text(picture("JPEG"), "iterm2").startswith("\x1b]1337;File=inline=1")
    for kind in ("JPEG", "PNG"):
        text = preview_text(picture(kind, 128), "kitty")
        first, *middle, last = text.rstrip("\n").removesuffix("\x1b\\").split("\x1b\\")
        assert first.startswith("\x1b_Ga=T,f=100,")
        assert all(part.startswith("\x1b_Gm=1;") for part in middle)
        data = "".join(part.partition(";")[2] for part in (first, *middle, last))
        assert base64.b64decode(data).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("progress", "status", "text"),
    [
        (Progress(queue_position=3), "queued", "queued, 3 ahead"),
        (Progress(), "queued", "queued"),
        (Progress(), "running", "running"),
        (Progress(node_class="KSampler", step=2, steps=4), "running", "KSampler 2/4"),
        (Progress(node_class="KSampler", node_title="Draw"), "running", "Draw"),
    ],
)
def test_progress_in_a_few_words(progress: Progress, status: str, text: str) -> None:
    assert describe(progress, status) == text


def test_a_job_in_a_few_lines() -> None:
    base: dict[str, Any] = {"id": "job_1", "workflow": "draw", "version": 1, "created_at": NOW}
    running = JobRecord.model_validate(
        {**base, "status": "running", "cancel_requested_at": NOW, "progress": {"fraction": 0.5}}
    )
    assert job_lines(running) == ["job_1  draw  running, cancelling", "  50%  running"]
    error = {"title": "no", "code": "node_failed", "fields": [{"node": "3", "message": "bad"}]}
    failed = JobRecord.model_validate(
        {**base, "status": "failed", "timings": {"run": 1.25}, "error": error}
    )
    assert job_lines(failed)[1:] == ["  ran 1.2 s", "  node_failed: no", "    3: bad"]
