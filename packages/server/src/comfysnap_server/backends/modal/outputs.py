"""Finds files in the outputs of a job."""

from collections.abc import Iterator, Mapping

from pydantic import JsonValue, ValidationError

from comfysnap_schema.files import OutputFile


def output_files(outputs: Mapping[str, JsonValue]) -> Iterator[OutputFile]:
    """Each file that the outputs hold."""
    for value in outputs.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                try:
                    yield OutputFile.model_validate(item)
                except ValidationError:
                    continue  # plain JSON


def find_output(outputs: Mapping[str, JsonValue], name: str) -> OutputFile | None:
    """The file of this name."""
    return next((file for file in output_files(outputs) if file.name == name), None)
