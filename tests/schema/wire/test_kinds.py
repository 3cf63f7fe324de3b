"""The table of kinds: complete, without contradictions, and usable by file name."""

import re
from collections import Counter

import pytest

from comfysnap_schema import models
from comfysnap_schema.propose.roles import FILES, SEED
from comfysnap_schema.wire.kinds import (
    FILE_KINDS,
    KINDS,
    Kind,
    content_type_of,
    kind_fits,
)


def test_every_kind_has_an_entry() -> None:
    assert set(KINDS) == set(Kind)


def test_every_model_can_be_imported_by_generated_modules() -> None:
    assert {info.model for info in KINDS.values() if info.model} <= set(models.__all__)


def test_texts_and_json_do_not_travel_as_files() -> None:
    assert set(Kind) - FILE_KINDS == {Kind.TEXT, Kind.JSON}


def test_every_class_and_option_belongs_to_one_kind() -> None:
    classes = Counter(
        name for info in KINDS.values() for nodes in info.outputs for name in nodes.classes
    )
    options = Counter(
        option for info in KINDS.values() if info.inputs for option in info.inputs.options
    )
    assert set(classes.values()) == set(options.values()) == {1}


def test_every_pattern_compiles() -> None:
    for info in KINDS.values():
        for nodes in info.outputs:
            re.compile(nodes.pattern or "")
        if info.inputs is not None:
            re.compile(info.inputs.class_pattern)
            re.compile(info.inputs.input_pattern)


def test_a_suffix_has_one_content_type() -> None:
    found = {
        (suffix, kind) for info in KINDS.values() for suffix, kind in info.content_types.items()
    }
    assert len(found) == len(dict(found))


def test_the_default_suffix_of_a_kind_is_one_of_its_own() -> None:
    for kind, info in KINDS.items():
        assert not info.suffix or kind_fits(f"x{info.suffix}", kind)


def test_proposed_files_come_before_the_seed() -> None:
    assert max(role.rank for role in FILES.values()) < SEED.rank


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.png", "image/png"),
        ("A.GLB", "model/gltf-binary"),
        ("a.ply", "application/octet-stream"),
        ("a.unknown", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_the_suffix_determines_the_content_type(name: str, content_type: str) -> None:
    assert content_type_of(name) == content_type


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("a.webp", {Kind.IMAGE, Kind.MASK, Kind.ANIMATION, Kind.FILE}),
        ("a.jpg", {Kind.IMAGE, Kind.MASK, Kind.FILE}),
        ("a.MP4", {Kind.VIDEO, Kind.FILE}),
        ("a.splat", {Kind.MODEL_3D, Kind.FILE}),
        ("a", {Kind.FILE}),
    ],
)
def test_the_suffix_determines_the_possible_kinds(name: str, kinds: set[Kind]) -> None:
    assert {kind for kind in Kind if kind_fits(name, kind)} == kinds
