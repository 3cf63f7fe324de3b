"""Tokenizers are built once and kept, except those whose data lies in a checkpoint."""

import sys
import types
from typing import Any

import pytest

from comfysnap_server.engine.comfyui.tokenizers import keep_tokenizers


class Tokenizer:
    """A class of tokenizers, as in transformers."""

    @staticmethod
    def from_pretrained(path: Any, **arguments: Any) -> tuple[object, Any, dict[str, Any]]:
        if path == "broken":
            raise OSError(path)
        return object(), path, arguments


class OtherTokenizer(Tokenizer):
    """Another one, for the same folders."""


@pytest.fixture
def text_encoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    """ComfyUI's ``SDTokenizer``, kept."""

    class SDTokenizer:
        def __init__(
            self, path: Any = "clip", size: int = 7, tokenizer_class: Any = Tokenizer, **args: Any
        ) -> None:
            self.tokenizer = tokenizer_class.from_pretrained(path, **args)
            self.size = size

    module = types.ModuleType("comfy.sd1_clip")
    vars(module)["SDTokenizer"] = SDTokenizer
    monkeypatch.setitem(sys.modules, "comfy", types.ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.sd1_clip", module)
    keep_tokenizers()
    return SDTokenizer


def test_a_tokenizer_of_the_same_class_and_path_is_built_once(text_encoder: Any) -> None:
    first, again = text_encoder(size=1), text_encoder("clip", 2)
    assert first.tokenizer is again.tokenizer
    assert (first.size, again.size) == (1, 2)
    assert text_encoder("t5").tokenizer is not first.tokenizer
    assert text_encoder(tokenizer_class=OtherTokenizer).tokenizer is not first.tokenizer


def test_data_of_a_checkpoint_and_arguments_are_never_kept(text_encoder: Any) -> None:
    assert text_encoder(b"data").tokenizer is not text_encoder(b"data").tokenizer
    one, two = text_encoder(legacy=True), text_encoder(legacy=True)
    assert one.tokenizer is not two.tokenizer
    assert one.tokenizer[1:] == ("clip", {"legacy": True})


def test_a_tokenizer_that_cannot_be_built_fails_its_own_loader(text_encoder: Any) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            text_encoder("broken")
