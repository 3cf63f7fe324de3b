"""The options of a job: query parameters, so that they never collide with inputs."""

from typing import Annotated, cast

from pydantic import BaseModel, Field

from comfysnap_schema.wire.routes import LABEL_PATTERN, MAX_LABELS

Label = Annotated[str, Field(pattern=LABEL_PATTERN)]


class JobOptions(BaseModel, frozen=True, use_attribute_docstrings=True):
    """Options that travel with the job, unchanged, to where they act."""

    webhook: Annotated[str, Field(max_length=2048)] | None = None
    """URL that receives the job once it ended; its host must be one that the server allows."""
    previews: bool = False
    """Whether events carry preview frames."""


class SubmitOptions(JobOptions, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """All options of a submit; those of its own are resolved when the job is accepted."""

    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Longest run in seconds; reduced to the limit of the server."""
    label: Annotated[list[Label], Field(max_length=MAX_LABELS)] = []
    """``key:value``; repeatable."""

    def params(self) -> tuple[tuple[str, str], ...]:
        """The query parameters, without those that have their default."""
        params: list[tuple[str, str]] = []
        for name, value in self.model_dump(exclude_defaults=True).items():
            items = cast("list[object]", value) if isinstance(value, list) else [value]
            params.extend((name, _text(item)) for item in items)
        return tuple(params)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3f}" if isinstance(value, float | int) else str(value)
