"""A chart of measured starts, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from comfysnap_server.operations.starts import PhaseSeconds

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

WIDTH: Final = 1000
_ROW: Final = 74
_LEFT: Final = 190
_COLORS: Final = {"queue": "#b8c4d0", "start": "#e8a33d", "run": "#3d7fb8", "other": "#dddddd"}


def draw_starts(rows: Sequence[PhaseSeconds], title: str, file: Path) -> None:
    """Write a PNG: for each start kind the median phases as a bar, and the p95 as a mark.

    Raises:
        OSError: The file cannot be written.
    """
    from PIL import Image, ImageFont
    from PIL.ImageDraw import Draw

    kinds = list(dict.fromkeys(row.kind for row in rows))
    height = 120 + _ROW * len(kinds)
    image = Image.new("RGB", (WIDTH, height), "white")
    draw = Draw(image)
    font, small = ImageFont.load_default(20), ImageFont.load_default(15)
    draw.text((20, 16), title, fill="black", font=font)
    longest = max((row.p95 for row in rows), default=0.0) or 1.0
    scale = (WIDTH - _LEFT - 190) / longest
    for number, kind in enumerate(kinds):
        of_kind = {row.phase: row for row in rows if row.kind == kind}
        top, x = 60 + number * _ROW, float(_LEFT)
        draw.text((20, top + 8), kind, fill="black", font=font)
        count = max(row.count for row in of_kind.values())
        draw.text((20, top + 32), f"{count} starts", fill="#555555", font=small)
        whole = of_kind.get("to first picture")
        for phase in ("queue", "start", "run"):
            seconds = of_kind[phase].p50 if phase in of_kind else 0.0
            draw.rectangle((x, top, x + seconds * scale, top + 40), fill=_COLORS[phase])
            x += seconds * scale
        if whole is None:
            continue
        end = _LEFT + whole.p50 * scale
        if end > x:
            draw.rectangle((x, top, end, top + 40), fill=_COLORS["other"])
        mark = _LEFT + whole.p95 * scale
        draw.line((mark, top - 4, mark, top + 44), fill="black", width=2)
        text = f"{whole.p50:.2f} s, p95 {whole.p95:.2f} s"
        draw.text((max(x, end, mark) + 8, top + 10), text, fill="black", font=small)
    _legend(draw, small, height - 40)
    image.save(file, "PNG")


def _legend(draw: "ImageDraw", font: Any, top: int) -> None:
    x = 20
    for phase, color in _COLORS.items():
        label = "until the end is seen" if phase == "other" else f"{phase} (median)"
        draw.rectangle((x, top, x + 18, top + 18), fill=color)
        draw.text((x + 26, top), label, fill="black", font=font)
        x += 60 + int(draw.textlength(label, font=font))
