"""The import gives the graphs of ComfyUI's own editor.

The editor and the templates come with the dependency group ``editor``; without it, or without
Chromium, these tests are skipped. ``against_editor.py`` compares all templates.
"""

import json
from pathlib import Path

import pytest

from comfysnap_schema.comfy.catalogue import Catalogue
from tests.schema.comfy.ui_export.against_editor import ask_editor, compare, templates
from tests.schema.comfy.ui_export.editor import missing

pytestmark = pytest.mark.shared

SAMPLE = 20


def test_templates_become_the_graphs_of_the_editor(shared: Path) -> None:
    reason = missing() or (None if templates() else "no templates; uv run --group editor ...")
    if reason is not None:
        pytest.skip(reason)
    every = templates()
    drawings = {name: every[name] for name in list(every)[:: len(every) // SAMPLE]}
    object_info = json.loads((shared / "object_info-0.33.json").read_text())
    answers = ask_editor(drawings, object_info, None)
    catalogue = Catalogue.parse(object_info)
    results = [compare(name, data, answers[name], catalogue) for name, data in drawings.items()]
    assert [result for result in results if not result.expected] == []
