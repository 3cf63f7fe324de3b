"""Parsing of ``NAME=VALUE`` arguments."""

from pathlib import Path
from typing import Any

import pytest

from comfysnap_client.cli.inputs import InvalidArguments, parse_inputs
from comfysnap_schema.wire.files import FileByUrl
from tests.client.fakes import CONTRACT

SCHEMA: dict[str, Any] = CONTRACT["input_schema"]


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
        ("negative=42", "42"),
        ("negative=null", "null"),
        ("strength=0.5", 0.5),
        ("strength=null", None),
        ("image=https://example.com/x.png", FileByUrl(url="https://example.com/x.png")),
        ('extra={"a": [1]}', {"a": [1]}),
        ("extra=plain", "plain"),
    ],
)
def test_values_are_parsed_by_their_type(word: str, value: object) -> None:
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
        ("strength=much", "strength"),
        ("seed=x", "seed"),
        ("image=@nowhere.png", "image"),
        ("image=", "image"),
        ("zzzzzz=1", "zzzzzz"),
        ("prompt=twice", "prompt"),
        ("bare", "bare"),
        ("=value", "=value"),
    ],
)
def test_each_invalid_argument_is_reported_for_its_field(word: str, field: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        parse_inputs(["prompt=x", word], SCHEMA)
    assert [found.field for found in caught.value.fields] == [field]


def test_a_workflow_without_inputs_accepts_none() -> None:
    assert parse_inputs([], {}) == {}
    with pytest.raises(InvalidArguments):
        parse_inputs(["a=1"], {})


def test_a_file_argument_becomes_a_path(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.touch()
    assert parse_inputs(["prompt=x", f"image=@{path}"], SCHEMA)["image"] == path
