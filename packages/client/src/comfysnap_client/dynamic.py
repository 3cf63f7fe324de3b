"""Workflows without generated models: inputs by name, untyped outputs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import Field, JsonValue, ValidationInfo, create_model, model_validator

from comfysnap_schema.base import WorkflowInput, WorkflowOutput
from comfysnap_schema.wire import (
    AnimationFile,
    AudioFile,
    ImageFile,
    Model3DFile,
    OutputFile,
    VideoFile,
)

_BY_KIND: dict[str, type[OutputFile]] = {
    "image": ImageFile,
    "mask": ImageFile,
    "animation": AnimationFile,
    "video": VideoFile,
    "audio": AudioFile,
    "3d": Model3DFile,
}


@dataclass(frozen=True)
class JobOutput:
    """One output of a job, complete.

    Example::

        async for output in job.outputs():
            print(output.name, len(output.files))

    Attributes:
        name: Name of the output.
        value: An ``OutputFile`` of the output's kind, a list of them, text or JSON.
    """

    name: str
    value: OutputFile | list[OutputFile] | JsonValue

    @property
    def files(self) -> list[OutputFile]:
        """The files of the output; empty for text and JSON."""
        items = self.value if isinstance(self.value, list) else [self.value]
        return [item for item in items if isinstance(item, OutputFile)]


class UntypedOutput(WorkflowOutput, extra="allow"):
    """Outputs of a workflow without a generated model; ``values`` has them by name.

    Example::

        output = await client.job(saved_id).result()
        print(output.values)
    """

    @model_validator(mode="before")
    @classmethod
    def _find_files(cls, data: Any, info: ValidationInfo) -> Any:
        return {name: typed(value, info.context) for name, value in data.items()}

    @property
    def values(self) -> dict[str, Any]:
        """The outputs by name: an ``OutputFile``, a list of them, text or JSON."""
        return dict(self.model_extra or {})

    def files(self) -> Iterator[OutputFile]:
        """Iterate over all files, in the order of the outputs.

        Example::

            output = await client.job(saved_id).result()
            names = [file.name for file in output.files()]
        """
        for value in self.values.values():
            for one in cast("list[Any]", value) if isinstance(value, list) else [value]:
                if isinstance(one, OutputFile):
                    yield one


def untyped(workflow: str, inputs: Mapping[str, Any]) -> WorkflowInput[UntypedOutput]:
    """Return inputs for any workflow, to be validated by the server.

    Args:
        workflow: Name of the workflow.
        inputs: Values by input name; files as ``Path``, bytes or open binary files.

    Example::

        output = await client.infer_sync(untyped("flux", {"prompt": "a fox"}))
        for file in output.files():
            await file.save(".")
    """
    fields: dict[str, Any] = {
        f"input_{index}": (Any, Field(default=None, alias=name))
        for index, name in enumerate(inputs)
    }
    model = create_model("UntypedInput", __base__=WorkflowInput[UntypedOutput], **fields)
    model.__workflow__ = workflow
    return model.model_validate(dict(inputs))


def typed(value: Any, context: Any) -> Any:
    """The value of an output, with files of the types of their kinds."""
    if isinstance(value, list):
        return [typed(one, context) for one in cast("list[Any]", value)]
    if (
        isinstance(value, dict)
        and {"name", "url", "sha256", "kind"} <= cast("dict[str, Any]", value).keys()
    ):
        kind = _BY_KIND.get(str(cast("dict[str, Any]", value)["kind"]), OutputFile)
        return kind.model_validate(value, context=context)
    return cast("Any", value)
