"""3D models on the page, in Chromium: drawn, turned, zoomed, let go of, or left to a download."""

import base64
import json
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from tests.chromium import CHROMIUM, Page
from tests.server.gateway.page.glb_files import picture, triangle_file
from tests.server.gateway.page.test_browser import (
    KEY,
    Serve,
    click,
    kinds,
    open_workflow,
    run,
    serious_faults,
)  # fmt: skip
from tests.server.gateway.page.test_browser import page as page
from tests.server.gateway.page.test_browser import serve as serve

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

SAMPLE = (files("comfysnap_server.engine.simulated") / "sample.glb").read_bytes()
CANVAS = "document.querySelector('mesh-view:not([aria-busy]) canvas')"
BACK = (240, 240, 243)
"""Of the canvas, where nothing is drawn."""
Shown = Callable[[], Image.Image]
Show = Callable[..., None]


@pytest.fixture
def shown(page: Page, tmp_path: Path) -> Shown:
    """The model as it is seen on the screen."""

    def shown() -> Image.Image:
        page.wait(CANVAS)
        for _ in range(2):  # it draws in the next frame
            page.eval("new Promise(requestAnimationFrame)")
        page.screenshot(tmp_path / "page.png")
        box = page.eval(
            f"(() => {{ const {{left, top, right, bottom}} = {CANVAS}.getBoundingClientRect();"
            "return [left + scrollX, top + scrollY, right + scrollX, bottom + scrollY]; })()"
        )
        with Image.open(tmp_path / "page.png") as image:
            left, top, right, bottom = map(round, box)
            return image.convert("RGB").crop((left + 3, top + 3, right - 3, bottom - 3))

    return shown


@pytest.fixture
def show(page: Page, serve: Serve) -> Show:
    """Show a file in place of what a page shows."""
    server = serve()
    page.open(server)
    page.wait("document.querySelector('.workflows')")
    needs_webgl(page)

    def show(content: bytes, count: int = 1) -> None:
        page.eval(
            f"""(async () => {{
              const {{ meshView }} = await import("{server}/page/0/mesh_view.js");
              const text = atob("{base64.b64encode(content).decode()}");
              const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
              window.why = undefined;
              const read = async () => bytes.buffer;
              const fail = (why) => (window.why = why);
              const view = () => meshView(bytes.length, read, "Cup", fail);
              document.body.replaceChildren(...Array.from({{ length: {count} }}, view));
            }})()"""
        )

    return show


def needs_webgl(page: Page) -> None:
    if not page.eval("document.createElement('canvas').getContext('webgl2') !== null"):
        pytest.skip("this Chromium has no WebGL 2")


def drawn(image: Image.Image) -> list[tuple[int, ...]]:
    """Colours of all pixels that are not background."""
    data = image.tobytes()
    pixels = [tuple(data[at : at + 3]) for at in range(0, len(data), 3)]
    return [
        pixel for pixel in pixels if max(abs(a - b) for a, b in zip(pixel, BACK, strict=True)) > 8
    ]


def is_same(one: Image.Image, other: Image.Image) -> bool:
    """Whether hardly a pixel differs: sums of angles are rounded."""
    if one.size != other.size:
        return False
    data = ImageChops.difference(one, other).convert("L").tobytes()
    return sum(value > 8 for value in data) < len(data) / 500


def test_a_model_is_shown_and_turned_by_the_keyboard(
    serve: Serve, page: Page, shown: Shown, tmp_path: Path
) -> None:
    server = serve({"kinds": kinds(tmp_path)}, auth="keys")
    page.open(f"{server}/w/kinds")
    page.wait("document.querySelector('.access input')")
    page.eval(f"document.querySelector('.access input').value = '{KEY}'")
    click(page, ".access .primary")
    page.wait("document.querySelector('.run .primary')")
    needs_webgl(page)
    run(page)
    page.eval("document.querySelector('mesh-view').scrollIntoView()")
    first = shown()
    label = page.eval(f"{CANVAS}.getAttribute('aria-label')")
    assert label.startswith("Model: 24 vertices, 12 triangles.")
    assert 0.1 < len(drawn(first)) / (first.width * first.height) < 0.9
    assert any(blue > red + 30 for red, _, blue in drawn(first))  # the texture
    page.eval(f"{CANVAS}.focus()")
    page.press("ArrowRight")
    assert not is_same(shown(), first)
    page.press("ArrowLeft")
    assert is_same(shown(), first)
    page.press("ArrowUp")
    assert not is_same(shown(), first)
    page.press("+", text="+")
    assert len(drawn(shown())) > len(drawn(first))
    page.press("Home")
    assert is_same(shown(), first)


def test_a_model_is_accessible(serve: Serve, page: Page, tmp_path: Path) -> None:
    open_workflow(page, f"{serve({'kinds': kinds(tmp_path)})}/w/kinds")
    needs_webgl(page)
    run(page)
    page.eval("document.querySelector('mesh-view').scrollIntoView()")
    page.wait(CANVAS)
    assert serious_faults(page) == []


def test_the_pointer_turns_and_the_wheel_zooms_what_was_clicked(
    show: Show, page: Page, shown: Shown
) -> None:
    show(SAMPLE)
    first = shown()
    page.mouse("mouseWheel", 200, 200, deltaX=0, deltaY=-200)
    assert is_same(shown(), first)  # the page's
    page.mouse("mousePressed", 200, 200, button="left", buttons=1, clickCount=1)
    page.mouse("mouseMoved", 260, 230, button="left", buttons=1)
    page.mouse("mouseReleased", 260, 230, button="left")
    turned = shown()
    assert not is_same(turned, first)
    page.mouse("mouseMoved", 300, 300)
    assert is_same(shown(), turned)
    page.mouse("mouseWheel", 200, 200, deltaX=0, deltaY=-300)
    assert len(drawn(shown())) > len(drawn(turned))


def test_fingers_turn_and_pinch(show: Show, page: Page, shown: Shown) -> None:
    page.look(width=390)
    show(SAMPLE)
    first = shown()
    page.touch("touchStart", (100, 150))
    for x in range(110, 200, 10):
        page.touch("touchMove", (x, 150))
    page.touch("touchEnd")
    turned = shown()
    assert not is_same(turned, first)
    page.touch("touchStart", (190, 150), (200, 150))
    for step in range(10, 60, 10):
        page.touch("touchMove", (190 - step, 150), (200 + step, 150))
    page.touch("touchEnd")
    assert len(drawn(shown())) > len(drawn(turned))


UNLIT: dict[str, Any] = {"extensions": {"KHR_materials_unlit": {}}}
RED = {"baseColorFactor": [1, 0, 0, 1]}


def test_colours_come_from_the_material_the_texture_and_the_vertices(
    show: Show, shown: Shown
) -> None:
    show(triangle_file({
        "materials": [UNLIT | {"pbrMetallicRoughness": RED}], "meshes.0.primitives.0.material": 0,
    }))  # fmt: skip
    assert (255, 0, 0) in drawn(shown())
    for form, mime in (("png", "image/png"), ("webp", "image/webp")):
        show(triangle_file({"materials.0.extensions": UNLIT["extensions"]},
                           picture(form, "lime"), mime))  # fmt: skip
        assert (0, 255, 0) in drawn(shown())
    show(triangle_file({"meshes.0.primitives.0.attributes.COLOR_0": 2}))
    colors = drawn(shown())
    for channel in range(3):
        others = [(channel + 1) % 3, (channel + 2) % 3]
        assert any(one[channel] > max(one[other] for other in others) + 60 for one in colors)


def test_faces_without_normals_are_shaded_flat(show: Show, shown: Shown) -> None:
    show(triangle_file())
    colors = drawn(shown())
    ((color, count),) = Counter(colors).most_common(1)
    assert count > 0.9 * len(colors)
    assert 60 < color[0] < 250  # white, lit from the side


def test_a_model_that_goes_away_gives_its_memory_back(show: Show, page: Page) -> None:
    for _ in range(20):  # more than a browser gives contexts
        show(SAMPLE)
        page.wait(f"{CANVAS} || window.why")
        assert page.eval("window.why ?? null") is None
        page.eval(f"window.kept = {CANVAS}.getContext('webgl2')")
        # taken out and put back, as the results are when another comes
        page.eval("document.body.replaceChildren(...document.body.children)")
        assert not page.eval("kept.isContextLost()")
        page.eval("document.body.replaceChildren()")
        page.wait("kept.isContextLost()")


def test_the_ninth_model_of_a_page_is_left_to_the_download(show: Show, page: Page) -> None:
    show(SAMPLE, count=8)
    page.wait("document.querySelectorAll('mesh-view:not([aria-busy]) canvas').length === 8")
    assert page.eval("window.why ?? null") is None
    show(SAMPLE, count=9)
    page.wait("window.why")
    assert page.eval("window.why") == "8 other 3D models are shown on this page"
    assert page.eval("document.querySelectorAll('canvas').length") == 8


def test_a_model_that_the_browser_stops_drawing_is_left_to_the_download(
    show: Show, page: Page
) -> None:
    show(SAMPLE)
    page.wait(CANVAS)
    page.eval(f"{CANVAS}.getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()")
    page.wait("window.why")
    assert page.eval("window.why") == "the browser stopped drawing it"


def test_a_damaged_model_is_left_to_the_download(show: Show, page: Page) -> None:
    show(triangle_file({"accessors.0.count": 10**6}))
    page.wait("window.why")
    assert page.eval("window.why") == "the file is damaged"


def test_without_webgl_there_is_the_download(serve: Serve, page: Page, tmp_path: Path) -> None:
    open_workflow(page, f"{serve({'kinds': kinds(tmp_path)})}/w/kinds")
    page.eval("HTMLCanvasElement.prototype.getContext = () => null; 0")
    run(page)
    page.eval("document.querySelector('.outputs').scrollIntoView()")
    page.wait("document.querySelector('.unshown')?.innerText.includes('has no WebGL 2')")
    figure = "document.querySelector('figure:has(.unshown)')"
    assert page.eval(f"{figure}.querySelector('a').innerText") == "Download"


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ({"name": "a.obj", "content_type": "model/obj"}, "only GLB files are"),
        ({"name": "a.ply", "content_type": "application/octet-stream"}, "only GLB files are"),
        ({"url": "https://bucket.example.com/a.glb"}, "3D models in a bucket are not"),
        ({"size": 10**9}, "it is too large"),
    ],
)
def test_what_is_not_shown_is_a_download_that_says_why(
    serve: Serve, page: Page, file: dict[str, str | int], why: str
) -> None:
    server = serve()
    page.open(server)
    page.wait("document.querySelector('.workflows')")
    value = {"name": "a.glb", "content_type": "model/gltf-binary", "size": 9, "sha256": "0",
             "url": "/outputs/job_1/a.glb", **file}  # fmt: skip
    page.eval(
        f"""(async () => {{
          const {{ outputView }} = await import("{server}/page/0/result.js");
          document.body.replaceChildren(outputView("job_1", "model", {json.dumps(value)}));
        }})()"""
    )
    page.wait(f"document.body.innerText.includes({json.dumps(why)})")
    assert page.eval("document.querySelectorAll('figure a[download]').length") == 1
