"""Options of a job as query parameters."""

from urllib.parse import parse_qs, urlencode

import pytest
from pydantic import ValidationError

from comfysnap_schema.wire.options import SubmitOptions


def test_the_query_of_options_is_read_back_as_the_same_options() -> None:
    options = SubmitOptions(
        timeout=1.5, webhook="https://a.example/hook", label=["team:red", "run:7"], previews=True
    )
    query = parse_qs(urlencode(options.params()))
    labels = query.pop("label")
    flat = {name: value for name, (value,) in query.items()}
    assert SubmitOptions.model_validate({**flat, "label": labels}) == options


def test_options_that_have_their_default_are_not_sent() -> None:
    assert SubmitOptions().params() == ()
    assert SubmitOptions(timeout=60).params() == (("timeout", "60.000"),)


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"label": ["no colon"]}, {"label": ["a:b"] * 17}, {"seed": 1}]
)
def test_options_outside_their_limits_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SubmitOptions.model_validate(options)
