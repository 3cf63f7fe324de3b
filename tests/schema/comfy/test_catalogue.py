"""The node catalogue, read from files and servers."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfysnap_schema.comfy.catalogue import Catalogue, read_object_info
from comfysnap_schema.comfy.definitions import InputDef
from comfysnap_schema.wire.errors import CatalogueError
from comfysnap_schema.wire.files import Kind


def entry(required: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "input": {"required": required, "hidden": {"unique_id": "UNIQUE_ID"}},
        "output": ["IMAGE"],
        "output_name": ["image"],
        "description": "Prose.",
        **more,
    }


def one(spec: Any, **more: Any) -> InputDef:
    return Catalogue.parse({"Node": entry({"value": spec}, **more)})["Node"].inputs["value"]


def test_both_combo_encodings_give_the_same_choices() -> None:
    old = one([["a", "b"], {"default": "a"}])
    new = one(["COMBO", {"options": ["a", "b"], "default": "a"}])
    assert old.type == new.type == "COMBO"
    assert old.choices == new.choices == ("a", "b")
    assert (old.choices_in_type, new.choices_in_type) == (True, False)
    assert old.default == "a"


def test_a_remote_combo_without_options_has_unknown_choices() -> None:
    found = one(["COMBO", {"remote": {"route": "/internal/files/output"}}])
    assert found.choices is None
    assert not found.is_model_file
    assert found.is_widget


def test_a_multiselect_combo_says_so() -> None:
    assert one(["COMBO", {"options": ["a"], "multiselect": True}]).multiselect
    assert one(["COMBO", {"options": ["a"], "multi_select": {"placeholder": "x"}}]).multiselect


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        ("image_upload", Kind.IMAGE),
        ("animated_image_upload", Kind.IMAGE),
        ("audio_upload", Kind.AUDIO),
        ("video_upload", Kind.VIDEO),
        ("file_upload", Kind.FILE),
    ],
)
def test_an_upload_is_a_file_and_its_choices_are_dropped(flag: str, kind: Kind) -> None:
    old = one([["mine.png"], {flag: True, "default": "mine.png"}])
    new = one(["COMBO", {"options": ["mine.png"], flag: True}])
    assert old.upload is new.upload is kind
    assert old.choices is new.choices is None
    catalogue = Catalogue.parse({"Node": entry({"value": [["mine.png"], {flag: True}]})})
    assert "mine.png" not in catalogue.dumps()


def test_integers_keep_all_64_bits_and_floats_their_step_and_rounding() -> None:
    seed = one(["INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}])
    assert seed.maximum == 2**64 - 1
    assert seed.control_after_generate
    cfg = one(["FLOAT", {"default": 8.0, "min": 0, "max": 100, "step": 0.1, "round": 0.01}])
    assert (cfg.step, cfg.round, cfg.default, cfg.has_default) == (0.1, 0.01, 8.0, True)
    odd = one(["INT", {"default": 0, "min": True, "max": "9"}])
    assert (odd.minimum, odd.maximum) == (None, None)


def test_strings_are_multiline_when_declared_so() -> None:
    assert one(["STRING", {"multiline": True}]).multiline
    assert not one(["STRING"]).multiline


def test_links_and_forced_sockets_are_not_widgets() -> None:
    assert not one(["MODEL"]).is_widget
    assert not one(["STRING", {"forceInput": True}]).is_widget
    assert one(["BOOLEAN", {"default": False}]).is_widget
    assert one(["FLOAT,INT", {"widgetType": "FLOAT"}]).is_widget


def test_model_files_are_distinguished_from_other_choices() -> None:
    assert one([["a.safetensors", "none"]]).is_model_file
    assert one([[]]).is_model_file
    assert not one([["euler"]]).is_model_file


def test_inputs_come_in_the_editors_order_required_ones_first() -> None:
    node = Catalogue.parse(
        {
            "Node": {
                "input": {
                    "optional": {"z": ["INT"]},
                    "required": {"b": ["INT"], "a": ["INT"], "c": ["INT"]},
                },
                "input_order": {"required": ["a", "b", "gone", ["a"]], "optional": ["z"]},
                "output": [],
            }
        }
    )["Node"]
    assert [found.name for found in node.declared] == ["a", "b", "c", "z"]
    assert [found.required for found in node.declared] == [True, True, True, False]


def test_the_order_of_the_file_stands_in_for_a_missing_input_order() -> None:
    raw = {"Node": entry({"b": ["INT"], "a": ["INT"]})}
    again = Catalogue.parse(json.loads(Catalogue.parse(raw).dumps()))
    assert [found.name for found in again["Node"].declared] == ["b", "a"]


def test_outputs_have_names_types_lists_and_templates() -> None:
    node = Catalogue.parse(
        {
            "Node": entry(
                {},
                output=["IMAGE", ["a", "b"], "COMFY_MATCHTYPE_V3"],
                output_name=["picture", ""],
                output_is_list=[True],
                output_matchtypes=[None, None, "template"],
                output_node=True,
                api_node=True,
                python_module="custom_nodes.pack",
            )
        }
    )["Node"]
    assert [(out.name, out.type) for out in node.outputs] == [
        ("picture", "IMAGE"),
        ("COMBO", "COMBO"),
        ("COMFY_MATCHTYPE_V3", "COMFY_MATCHTYPE_V3"),
    ]
    assert node.outputs[0].is_list
    assert node.outputs[1].choices == ("a", "b")
    assert node.outputs[2].match == "template"
    assert node.output_node
    assert node.api_node
    assert node.module == "custom_nodes.pack"


TWO = {"names": ["a", "b"], "min": 1}
DYNAMIC = {
    "Resize": entry(
        {
            "resize_type": [
                "COMFY_DYNAMICCOMBO_V3",
                {
                    "options": [
                        {
                            "key": "size",
                            "inputs": {
                                "required": {
                                    "width": ["INT", {"min": 1, "tooltip": "Prose."}],
                                    "crop": [
                                        "COMFY_DYNAMICCOMBO_V3",
                                        {
                                            "options": [
                                                {
                                                    "key": "on",
                                                    "inputs": {"required": {"x": ["INT"]}},
                                                }
                                            ]
                                        },
                                    ],
                                }
                            },
                        },
                        {"key": "factor", "inputs": {"required": {"by": ["FLOAT", {}]}}},
                    ]
                },
            ],
            "images": [
                "COMFY_AUTOGROW_V3",
                {
                    "template": {
                        "input": {"required": {"image": ["IMAGE", {"tooltip": "Prose."}]}},
                        "prefix": "image",
                        "min": 2,
                        "max": 3,
                    }
                },
            ],
            "mask": [
                "COMFY_DYNAMICSLOT_V3",
                {"slotType": "MASK", "inputs": {"required": {"feather": ["INT"]}}},
            ],
        }
    )
}


def test_dynamic_inputs_add_dotted_ones() -> None:
    node = Catalogue.parse(DYNAMIC)["Resize"]
    sized = node.expand({"resize_type": "size", "resize_type.crop": "on"})
    assert list(sized) == [
        "resize_type", "resize_type.width", "resize_type.crop", "resize_type.crop.x",
        "images.image0", "images.image1", "images.image2", "mask",
    ]  # fmt: skip
    assert sized["resize_type.width"].minimum == 1
    assert [sized[f"images.image{index}"].required for index in range(3)] == [True, True, False]
    linked = node.expand({"resize_type": "factor", "mask": ["1", 0]})
    assert "resize_type.by" in linked
    assert "mask.feather" in linked
    assert node.inputs["resize_type"].is_widget
    assert not node.inputs["images"].is_widget


def test_the_template_of_an_autogrow_says_which_inputs_are_required() -> None:
    image = {"image": ["IMAGE"]}
    grown: dict[str, Any] = {
        "input": {
            "optional": {
                "needed": ["COMFY_AUTOGROW_V3", {"template": {"input": {"required": image}, **TWO}}]
            },
            "required": {
                "free": ["COMFY_AUTOGROW_V3", {"template": {"input": {"optional": image}, **TWO}}]
            },
        },
        "output": [],
    }
    inputs = Catalogue.parse({"Node": grown})["Node"].expand({})
    assert {name for name, found in inputs.items() if found.required} == {"needed.a"}


def test_an_autogrow_may_name_its_inputs() -> None:
    template = {"input": {"required": {"v": ["FLOAT"]}}, "names": ["a", "b"]}
    node = Catalogue.parse(
        {"Node": entry({"values": ["COMFY_AUTOGROW_V3", {"template": template}]})}
    )["Node"]
    assert list(node.expand({})) == ["values.a", "values.b"]


def test_an_autogrow_may_hold_its_bounds_beside_the_template() -> None:
    options = {"template": {"input": {"required": {"v": ["FLOAT"]}}}, "prefix": "v_", "max": 2}
    raw = {"Node": entry({"values": ["COMFY_AUTOGROW_V3", options]})}
    again = Catalogue.parse(json.loads(Catalogue.parse(raw).dumps()))
    assert list(again["Node"].expand({})) == ["values.v_0", "values.v_1"]


def test_an_autogrow_without_bounds_is_limited_and_one_without_template_adds_nothing() -> None:
    template = {"input": {"required": {"v": ["FLOAT"]}}, "prefix": "v"}
    raw = {
        "Grow": entry({"values": ["COMFY_AUTOGROW_V3", {"template": template}]}),
        "Empty": entry({"values": ["COMFY_AUTOGROW_V3", {}]}),
    }
    catalogue = Catalogue.parse(raw)
    assert len(catalogue["Grow"].expand({})) == 128
    assert catalogue["Empty"].expand({}) == {}


def test_endless_nesting_is_cut_off() -> None:
    spec: Any = ["INT"]
    for _ in range(40):
        inputs = {"required": {"v": spec}}
        spec = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "k", "inputs": inputs}]}]
    values = {"value" + ".v" * depth: "k" for depth in range(41)}
    node = Catalogue.parse({"Node": entry({"value": spec})})["Node"]
    assert 1 < len(node.expand(values)) < 20


@pytest.mark.parametrize("spec", ["INT", ["INT"], ["INT", None], ["INT", "prose"], ("INT", {})])
def test_odd_but_clear_declarations_are_read(spec: Any) -> None:
    assert one(spec).type == "INT"


def test_an_empty_declaration_takes_anything() -> None:
    assert one([]).type == "*"


def test_the_slim_form_has_no_descriptions_and_only_the_given_classes_and_is_stable(
    tmp_path: Path,
) -> None:
    catalogue = Catalogue.parse({**DYNAMIC, "Other": entry({"a": [["x"], {"tooltip": "Prose."}]})})
    slim = catalogue.slim(["Resize", "NotThere", "Resize"])
    assert list(slim) == ["Resize"]
    assert len(slim) == 1
    slim.save(tmp_path / "nodes.json")
    again = Catalogue.load(tmp_path / "nodes.json")
    assert again.dumps() == slim.dumps()
    assert again["Resize"] == catalogue["Resize"]
    assert "Prose" not in catalogue.dumps()


def test_unknown_classes_are_none_or_a_key_error() -> None:
    catalogue = Catalogue.parse(DYNAMIC)
    assert "Resize" in catalogue
    assert catalogue.get("Nope") is None
    assert catalogue["Resize"] is catalogue.get("Resize")
    with pytest.raises(KeyError):
        catalogue["Nope"]


@pytest.mark.parametrize("data", [[], {}, "x", {"Node": 1}, {"Node": {"input": {}}}])
def test_an_invalid_catalogue_is_rejected(data: Any) -> None:
    with pytest.raises(CatalogueError) as caught:
        Catalogue.parse(data, file="f.json")
    assert caught.value.code == "not_a_catalogue"
    assert caught.value.file == "f.json"


@pytest.mark.parametrize(
    "sloppy", [1, None, [], {"input": {"required": {}}}, {"input": {}, "output": "IMAGE"}]
)
def test_a_malformed_class_is_skipped_by_name(sloppy: Any) -> None:
    catalogue = Catalogue.parse({"Bad": sloppy, **DYNAMIC})
    assert (list(catalogue), catalogue.skipped) == (["Resize"], ("Bad",))
    with pytest.raises(CatalogueError) as caught:
        Catalogue.parse({"Bad": sloppy})
    assert caught.value.field == "Bad"


def test_a_range_without_an_end_is_none(tmp_path: Path) -> None:
    endless = {"default": NAN, "min": -INFINITY, "max": INFINITY, "step": NAN}
    template = {"input": {"required": {"v": ["FLOAT"]}}, "prefix": "v", "min": NAN, "max": INFINITY}
    catalogue = Catalogue.parse(
        {
            "Node": entry(
                {
                    "value": ["FLOAT", endless],
                    "old": [[1, NAN, 2]],
                    "new": ["COMBO", {"options": [1, INFINITY]}],
                    "many": ["COMFY_AUTOGROW_V3", {"template": template}],
                }
            )
        }
    )
    node = catalogue["Node"]
    value = node.inputs["value"]
    assert (value.minimum, value.maximum, value.step, value.has_default) == (
        None,
        None,
        None,
        False,
    )
    assert (node.inputs["old"].choices, node.inputs["new"].choices) == ((1, 2), (1,))
    assert len(node.expand({})) == 3 + 128
    catalogue.save(tmp_path / "nodes.json")
    assert Catalogue.load(tmp_path / "nodes.json")["Node"] == node


NAN, INFINITY = float("nan"), float("inf")
WORDS = st.sampled_from(
    [
        "INT", "COMBO", "IMAGE,MASK", "required", "optional", "input", "output", "options", "key",
        "template", "inputs", "names", "prefix", "min", "max", "default", "input_order",
        "image_upload", "output_name", "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3",
        "COMFY_DYNAMICSLOT_V3", "COMFY_FUTURE_V9", "k",
    ]
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=25,
)


@given(
    required=st.dictionaries(WORDS, ANYTHING | st.tuples(WORDS, ANYTHING), max_size=4),
    output=st.lists(ANYTHING, max_size=3),
    more=st.dictionaries(WORDS, ANYTHING, max_size=3),
    values=st.dictionaries(WORDS, ANYTHING, max_size=3),
)
def test_whatever_a_node_pack_declares_its_class_is_read_and_others_too(
    required: Any, output: Any, more: Any, values: Any
) -> None:
    odd = {**more, "input": {"required": required, "optional": more}, "output": output}
    catalogue = Catalogue.parse({"Odd": odd, **DYNAMIC, "Any": more})
    node = catalogue["Odd"]
    assert {*required} <= {*node.inputs}
    assert len(node.outputs) <= len(output)
    node.expand(values)
    assert Catalogue.parse(json.loads(catalogue.dumps())).dumps() == catalogue.dumps()


def test_unreadable_files_are_reported_by_name(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError) as missing:
        Catalogue.read(tmp_path / "none.json")
    assert missing.value.code == "unreadable"
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(CatalogueError) as invalid:
        Catalogue.read(broken)
    assert (invalid.value.code, invalid.value.file) == ("invalid_json", str(broken))
    with pytest.raises(CatalogueError) as large:
        read_object_info(str(broken), limit=0)
    assert large.value.code == "too_large"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away/object_info":
            self.send_response(302)
            self.send_header("Location", "/object_info")
            self.end_headers()
            return
        self.send_response(200 if self.path == "/object_info" else 404)
        self.end_headers()
        self.wfile.write(json.dumps(DYNAMIC).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["", "/", "/object_info", "/object_info/"])
def test_a_catalogue_is_fetched_from_a_running_server(server: str, path: str) -> None:
    assert "Resize" in Catalogue.read(server + path)


@pytest.mark.parametrize("path", ["/wrong", "/away"])
def test_an_error_or_a_redirect_is_rejected(server: str, path: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        Catalogue.read(server + path)
    assert caught.value.code == "unreachable"


def test_a_response_over_the_limit_is_rejected(server: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        read_object_info(server, limit=10)
    assert caught.value.code == "too_large"


def test_a_server_without_http_is_reported_by_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail ready\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(CatalogueError) as caught:
            Catalogue.read(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert caught.value.code == "unreachable"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://", "http://[::1", "http://127.0.0.1:x", "http://a\tb c/"]
)
def test_an_address_without_a_server_is_reported(url: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        Catalogue.read(url)
    assert (caught.value.code, caught.value.file) == ("unreachable", url)


def test_other_url_schemes_are_file_names(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError) as caught:
        Catalogue.read(f"file://{tmp_path}/x.json")
    assert caught.value.code == "unreadable"


def test_files_that_a_loader_of_a_pack_lists_are_uploads() -> None:
    """Its own editor code adds the upload; ComfyUI's catalogue does not say so."""
    inputs: dict[str, dict[str, Any]] = {
        "VHS_LoadVideo": {"video": [["beach.mp4"], {}], "frames": ["INT", {}]},
        "LoadImageModel": {"image": [["a.safetensors"], {}]},
        "LoadImageOutput": {"image": [["old.png"], {}]},
    }
    data: dict[str, Any] = {
        name: {"input": {"required": required}, "output": []} for name, required in inputs.items()
    }
    known = Catalogue.parse(data)
    video = known["VHS_LoadVideo"].expand({})["video"]
    assert (video.upload, video.choices) == (Kind.VIDEO, None)
    assert known["LoadImageModel"].expand({})["image"].upload is None
    assert known["LoadImageOutput"].expand({})["image"].upload is None
