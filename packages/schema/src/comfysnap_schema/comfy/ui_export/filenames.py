"""Prefixes of saved files, in which the editor replaces ``%date:yyyy-MM-dd%`` and ``%Node.widget%``
(saveImageExtraOutput.ts, searchAndReplace.ts)."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.ui_export.model import UiNode, UiWorkflow
from comfysnap_schema.comfy.ui_export.widgets import ConversionError, readable_widgets

PREFIX: Final = "filename_prefix"
SAVES: Final = frozenset(
    {
        "SaveImage", "SaveImageAdvanced", "SaveSVGNode", "SaveVideo", "SaveAnimatedWEBP",
        "SaveWEBM", "SaveAudio", "SaveAudioMP3", "SaveAudioOpus", "SaveAudioAdvanced", "SaveGLB",
        "Save3DAdvanced", "SaveGaussianSplat", "SavePointCloud", "SaveAnimatedPNG", "CLIPSave",
        "VAESave", "ModelSave", "LoraSave", "SaveLatent",
    }
)  # fmt: skip
"""Classes whose prefix the editor fills in."""

_NAME: Final = "Node name for S&R"
_PLACE: Final = re.compile(r"%([^%]+)%")
_PART_OF_DATE: Final = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
_BY_COMFYUI: Final[Mapping[str, str]] = {
    "yyyy": "%year%",
    "MM": "%month%",
    "dd": "%day%",
    "hh": "%hour%",
    "mm": "%minute%",
    "ss": "%second%",
    "yyy": "yyy",
}
"""Parts of a date that ComfyUI fills in itself when it saves a file, in the same form."""
_NOT_IN_NAMES: Final = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


def filled(prefix: str, workflow: UiWorkflow, catalogue: Catalogue) -> str:
    """The prefix with the values of other widgets; dates are left to ComfyUI, for each job.

    Raises:
        ConversionError: ``date_format``, for a part of a date that ComfyUI does not fill in.
    """

    def replaced(place: re.Match[str]) -> str:
        node, dot, widget = place[1].partition(".")
        if dot and "." not in widget:
            found = _value(node, widget, workflow, catalogue)
            return place[0] if found is None else found
        if not dot and node.startswith("date:"):
            return _PART_OF_DATE.sub(_part_of_date, node.removeprefix("date:"))
        return place[0]

    return _PLACE.sub(replaced, prefix)


def _part_of_date(part: re.Match[str]) -> str:
    if part[0] not in _BY_COMFYUI:
        raise ConversionError(
            "date_format",
            f"{part[0]!r} in the date of its {PREFIX} is not a part that ComfyUI fills in; use"
            " yyyy, MM, dd, hh, mm and ss",
        )
    return _BY_COMFYUI[part[0]]


def _value(name: str, widget: str, workflow: UiWorkflow, catalogue: Catalogue) -> str | None:
    """The text of a widget of the first node of that name; None when there is none."""
    nodes = list(_nodes(workflow))
    named = [node for node in nodes if node.properties.get(_NAME, node.type) == name]
    node = next(iter(named or [node for node in nodes if node.title == name]), None)
    known = catalogue.get(node.type) if node is not None else None
    if node is None or known is None:
        return None
    found = readable_widgets(known, node).get(widget)
    return _NOT_IN_NAMES.sub("_", _text(found.value)) if found is not None else None


def _nodes(workflow: UiWorkflow) -> Iterator[UiNode]:
    for graph in (workflow.root, *workflow.subgraphs.values()):
        yield from graph.nodes.values()


def _text(value: JsonValue) -> str:
    """As JavaScript writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)
