"""Finds the model files that workflows use, and the files that none can use."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from comfysnap_schema.comfy import (
    EMBEDDING,
    MODEL_FOLDERS,
    InputPath,
    ModelName,
    is_model_name,
    model_names,
)
from comfysnap_schema.workflow import LORA_CLASSES, Parameter, Workflow


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """A use of a model file in a workflow."""

    workflow: str
    place: str
    """``node.inputs.name`` or ``inputs.parameter.choices``."""
    class_type: str
    name: str
    """As written, but with forward slashes; may contain folders."""
    folders: tuple[str, ...]
    """Folders of ``models/`` that the node searches. Empty: unknown."""
    is_on: bool = True
    """False in a row that is switched off: the job runs without the file."""

    @property
    def is_embedding(self) -> bool:
        """Whether a prompt names it; ComfyUI runs without an embedding that it does not find."""
        return self.folders == MODEL_FOLDERS[EMBEDDING]

    def is_at(self, path: PurePosixPath) -> bool:
        """Whether ``path``, inside ``models/``, is this file."""
        name = PurePosixPath(self.name)
        if not is_model_name(self.name) and is_model_name(path.name):  # of an embedding
            path = path.with_suffix("")
        if self.folders:
            return any(path == folder / name for folder in map(PurePosixPath, self.folders))
        return path.parts[-len(name.parts) :] == name.parts

    def has_name_of(self, path: PurePosixPath) -> bool:
        """Whether ``path`` has this file name, in any folder."""
        name = PurePosixPath(self.name).name
        return path.name == name or (not is_model_name(name) and path.stem == name)


def model_references(workflow: Workflow) -> list[ModelReference]:
    """Model files named in a workflow's graph, and in choices and defaults of its parameters."""
    return list(_references(workflow))


def _references(workflow: Workflow) -> Iterator[ModelReference]:
    for node_id, node in workflow.graph.items():
        for name, value in node["inputs"].items():
            path = InputPath(node_id, name)
            for found in model_names(name, value):
                yield _reference(workflow, f"{path}{found.inside}", path, found)
    for parameter in workflow.parameters.values():
        if parameter.type == "loras":
            yield from _loras(workflow, parameter)
        named = [*(parameter.choices or ()), parameter.default]
        for path in parameter.paths:
            names = (found for value in named for found in model_names(path.name, value))
            for found in dict.fromkeys(names):
                yield _reference(workflow, f"inputs.{parameter.name}", path, found)


def _loras(workflow: Workflow, parameter: Parameter) -> Iterator[ModelReference]:
    for name in parameter.choices or ():
        yield ModelReference(
            workflow=workflow.name,
            place=f"inputs.{parameter.name}",
            class_type=LORA_CLASSES[0],
            name=str(name),
            folders=MODEL_FOLDERS["lora_name"],
        )


def _reference(workflow: Workflow, place: str, path: InputPath, found: ModelName) -> ModelReference:
    node = workflow.graph[path.node]
    return ModelReference(
        workflow=workflow.name,
        place=place,
        class_type=node["class_type"],
        name=found.name,
        folders=MODEL_FOLDERS.get(found.key, ()),
        is_on=found.is_on,
    )


def selectable_folders(workflows: Iterable[Workflow]) -> set[str] | None:
    """Folders from which callers may choose any file. None: any folder, because a parameter feeds
    a loader whose folder is unknown."""
    found: set[str] = set()
    for workflow in workflows:
        for parameter in workflow.parameters.values():
            if parameter.type == "loras" and parameter.choices is None:
                found.update(MODEL_FOLDERS["lora_name"])
            if parameter.choices is not None or parameter.type not in ("string", "model", "json"):
                continue
            for path in parameter.paths:
                value = workflow.graph[path.node]["inputs"].get(path.name)
                keys = {name.key for name in model_names(path.name, value)}
                if not keys <= MODEL_FOLDERS.keys():
                    return None
                if not is_model_name(value):  # any text can name an embedding
                    keys.add(EMBEDDING)
                found.update(*(MODEL_FOLDERS[key] for key in keys))
    return found


def unused_files(
    paths: Iterable[PurePosixPath], workflows: Collection[Workflow], preload: Iterable[str]
) -> list[PurePosixPath]:
    """Files that no workflow uses, no caller can choose and ``preload`` does not list."""
    selectable = selectable_folders(workflows)
    if selectable is None:
        return []
    references = [ref for workflow in workflows for ref in model_references(workflow)]
    preloaded = {PurePosixPath(name) for name in preload}
    return [
        path
        for path in paths
        if path not in preloaded
        and path.parts[0] not in selectable
        and is_model_name(path.name)
        and not any(reference.is_at(path) for reference in references)
    ]
