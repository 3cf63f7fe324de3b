"""Parsing of ``NAME=VALUE`` arguments."""

from pathlib import Path
from typing import Any

import pytest

from comfysnap_client.cli.inputs import InvalidArguments, parse_inputs
from comfysnap_schema.wire.files import FileByUrl, ModelUrl
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


LISTS: dict[str, Any] = {
    "properties": {
        "images": {"type": "array", "items": {"oneOf": [], "x-kind": "image"}},
        "steps": {"type": ["array", "null"], "items": {"type": "integer"}},
        "loras": {
            "type": "array",
            "items": {
                "type": "object",
                "x-type": "lora",
                "properties": {"name": {"type": "string"}, "strength": {"type": "number"}},
            },
        },
        "styles": {
            "type": "array",
            "items": {
                "type": "object",
                "x-type": "lora",
                "properties": {"name": {"enum": ["ink:2.safetensors", "oil.safetensors"]}},
            },
        },
    },
    "required": ["images"],
}


def test_a_key_that_is_repeated_makes_a_list(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.touch()
    words = [f"images=@{path}", "steps=1", "images=https://example.com/x.png", "steps=2"]
    assert parse_inputs(words, LISTS) == {
        "images": [path, FileByUrl(url="https://example.com/x.png")],
        "steps": [1, 2],
    }


def test_an_empty_list_can_be_given() -> None:
    assert parse_inputs(["images=[]", "steps=[]"], LISTS) == {"images": [], "steps": []}


@pytest.mark.parametrize(
    ("word", "lora"),
    [
        ("loras=a/ink.safetensors", {"name": "a/ink.safetensors"}),
        ("loras=ink.safetensors:0.8", {"name": "ink.safetensors", "strength": 0.8}),
        ("loras=ink:-.5:1", {"name": "ink", "strength": -0.5, "clip_strength": 1.0}),
        ("loras=ink:v2", {"name": "ink:v2"}),
        ("styles=ink:2.safetensors:2", {"name": "ink:2.safetensors", "strength": 2.0}),
    ],
)
def test_a_lora_is_a_name_with_strengths(word: str, lora: object) -> None:
    name = word.partition("=")[0]
    assert parse_inputs(["images=[]", word], LISTS)[name] == [lora]


@pytest.mark.parametrize(
    ("words", "field", "says"),
    [
        (["images=x.png"], "images", "@x.png"),
        (["images=[]", "steps=1", "steps=x"], "steps", "an integer"),
        (["images=[]", "loras="], "loras", "NAME[:STRENGTH"),
        (["images=[]", "loras=:0.5"], "loras", "NAME[:STRENGTH"),
        (["images=[]", "styles=oli.safetensors:1"], "styles", "'oil.safetensors'"),
        ([], "images", "missing"),
    ],
)
def test_a_wrong_item_is_reported_for_its_field(words: list[str], field: str, says: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        parse_inputs(words, LISTS)
    (found,) = caught.value.fields
    assert found.field == field
    assert says in found.message


def test_a_workflow_without_inputs_accepts_none() -> None:
    assert parse_inputs([], {}) == {}
    with pytest.raises(InvalidArguments):
        parse_inputs(["a=1"], {})


def test_a_file_argument_becomes_a_path(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.touch()
    assert parse_inputs(["prompt=x", f"image=@{path}"], SCHEMA)["image"] == path


MODELS: dict[str, Any] = {
    "properties": {
        "checkpoint": {
            "type": ["string", "object"],
            "x-model": "checkpoints",
            "properties": {"url": {"type": "string"}},
        },
        "loras": {
            "type": "array",
            "items": {
                "type": "object",
                "x-type": "lora",
                "properties": {"name": {"enum": ["ink.safetensors"]}, "url": {"type": "string"}},
            },
        },
    }
}
URL = "https://models.example.com/a.safetensors"
SHA256 = "0" * 64


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("checkpoint=a.safetensors", "a.safetensors"),
        (f"checkpoint={URL}", ModelUrl(url=URL)),
        (f'checkpoint={{"url": "{URL}", "sha256": "{SHA256}"}}', {"url": URL, "sha256": SHA256}),
        (f"loras={URL}", [{"url": URL}]),
        (f"loras={URL}:0.5", [{"url": URL, "strength": 0.5}]),
        ("loras=ink.safetensors:2", [{"name": "ink.safetensors", "strength": 2.0}]),
    ],
)
def test_a_model_is_a_file_name_or_a_url(word: str, value: object) -> None:
    assert parse_inputs([word], MODELS) == {word.partition("=")[0]: value}
