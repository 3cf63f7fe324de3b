"""The bases of generated models, and how inputs travel."""

from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from comfysnap_schema.base import NoBool, WorkflowInput, WorkflowOutput, output_type, wire_inputs
from comfysnap_schema.wire.files import FileByUrl, FileInput, FileNotBoundError, ImageFile
from comfysnap_schema.workflows import FluxInput, FluxOutput, Img2imgInput, VideoOutput


def test_only_what_was_set_travels() -> None:
    inputs = FluxInput(prompt="a fox", steps=4)
    assert wire_inputs(inputs) == {"prompt": "a fox", "steps": 4}
    inputs.width = 512
    assert list(wire_inputs(inputs)) == ["prompt", "width", "steps"]


def test_none_is_left_out() -> None:
    assert wire_inputs(FluxInput(prompt="a fox", seed=None)) == {"prompt": "a fox"}


def test_aliases_are_the_names_that_travel() -> None:
    class Input(WorkflowInput[WorkflowOutput]):
        json_: str = "x"

    Input.model_fields["json_"].alias = "json"
    assert wire_inputs(Input(json_="y")) == {"json": "y"}


@pytest.mark.parametrize("file", [Path("a.png"), b"png", BytesIO(b"png")])
def test_a_file_stays_as_the_caller_passed_it(file: Any) -> None:
    assert wire_inputs(Img2imgInput(prompt="x", image=file))["image"] is file


def test_a_url_becomes_a_reference() -> None:
    wire = wire_inputs(Img2imgInput(prompt="x", image="https://example.org/a.png"))
    assert wire["image"] == FileByUrl(url="https://example.org/a.png")


@pytest.mark.parametrize("file", [3, "ftp://example.org/a.png", "a.png", {"path": "a"}, None])
def test_an_invalid_file_is_reported_by_field(file: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Img2imgInput(prompt="x", image=file)
    assert {error["loc"][0] for error in caught.value.errors()} == {"image"}


@pytest.mark.parametrize("file", [3, "a.png"])
def test_an_invalid_file_is_reported_with_the_valid_types(file: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Img2imgInput(prompt="x", image=file)
    (error,) = caught.value.errors()
    assert error["type"] == "file_input"
    assert "pathlib.Path" in error["msg"]


def test_the_repr_of_inputs_stays_short() -> None:
    assert "<5000 bytes>" in repr(Img2imgInput(prompt="x", image=b"p" * 5000))
    assert "b'png'" in repr(Img2imgInput(prompt="x", image=b"png"))

    class ManyInput(WorkflowInput[WorkflowOutput]):
        images: list[FileInput]

    assert "[<5000 bytes>, b'png']" in repr(ManyInput(images=[b"p" * 5000, b"png"]))


def test_whole_floats_in_a_list_are_integers() -> None:
    class SizesInput(WorkflowInput[WorkflowOutput]):
        sizes: list[int]

    assert SizesInput.model_validate({"sizes": [5.0, 6]}).sizes == [5, 6]


def test_pytest_does_not_collect_a_model_named_like_a_test() -> None:
    """pytest collects what is called ``Test...`` unless ``__test__`` says no."""

    class TestItOutput(WorkflowOutput):
        pass

    class TestItInput(WorkflowInput[TestItOutput]):
        pass

    assert (TestItInput.__test__, TestItOutput.__test__) == (False, False)


def test_a_model_names_its_output() -> None:
    assert output_type(FluxInput) is FluxOutput


def test_a_model_without_an_output_is_an_error() -> None:
    with pytest.raises(TypeError):
        output_type(WorkflowInput)


def test_inputs_forbid_unknown_fields_and_outputs_ignore_them() -> None:
    with pytest.raises(ValidationError):
        FluxInput.model_validate({"prompt": "x", "promt": "y"})
    assert FluxOutput.model_validate({"images": [], "masks": []}) == FluxOutput(images=[])


def test_inputs_must_be_an_object() -> None:
    with pytest.raises(ValidationError):
        FluxInput.model_validate([1])


async def test_a_file_that_no_client_returned_cannot_be_read(tmp_path: Path) -> None:
    record = {"name": "a.mp4", "kind": "video", "content_type": "video/mp4", "size": 1,
              "sha256": "0" * 64, "url": "/outputs/x/a.mp4"}  # fmt: skip
    video = VideoOutput.model_validate({"video": record}).video
    for read in (video.read(), video.save(tmp_path)):
        with pytest.raises(FileNotBoundError):
            await read
    with pytest.raises(FileNotBoundError):
        video.stream()


async def test_a_file_is_read_through_the_client_that_returned_it(tmp_path: Path) -> None:
    from comfysnap_schema.wire.files import READER_CONTEXT

    class Reader:
        async def read(self, file: ImageFile) -> bytes:
            return file.name.encode()

        async def save(self, file: ImageFile, path: Path) -> Path:
            return path / file.name

        def stream(self, file: ImageFile) -> list[bytes]:
            return [file.name.encode()]

    record = {"name": "a.png", "kind": "image", "content_type": "image/png", "size": 1,
              "sha256": "0" * 64, "url": "/outputs/x/a.png"}  # fmt: skip
    out = FluxOutput.model_validate({"images": [record]}, context={READER_CONTEXT: Reader()})
    assert await out.images[0].read() == b"a.png"
    assert await out.images[0].save(str(tmp_path)) == tmp_path / "a.png"
    assert list(out.images[0].stream()) == [b"a.png"]  # pyright: ignore -- the reader is a fake


def test_true_is_not_a_choice_among_integers() -> None:
    choice: TypeAdapter[int] = TypeAdapter(Annotated[Literal[1, 2], NoBool])
    assert choice.validate_python(1) == 1
    with pytest.raises(ValidationError) as caught:
        choice.validate_python(True)
    assert caught.value.errors()[0]["type"] == "int_type"
