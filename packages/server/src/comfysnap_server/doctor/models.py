"""Models that the workflows name, against the list of models."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from comfysnap_schema.workflow import Workflow
from comfysnap_server.deploy import Deployment
from comfysnap_server.doctor.symptoms import Level, Symptom
from comfysnap_server.models import ModelReference, model_references, unused_files


def check_models(deployment: Deployment, workflows: Sequence[Workflow]) -> Iterator[Symptom]:
    """Models that are named and not listed, listed in another folder, or listed for nothing."""
    settings = deployment.settings
    if settings.engine == "simulated":
        return
    listed = [entry.path for entry in settings.models if entry.path is not None]
    others = [str(entry) for entry in settings.models if entry.whole_repository]
    others += [f"volume {mount.volume}" for mount in settings.mounts]
    if settings.extra_model_paths:
        others.append(str(settings.extra_model_paths))
    told: set[tuple[str, str]] = set()
    for workflow in workflows:
        for reference in model_references(workflow):
            key = (workflow.name, reference.name)
            if key not in told and not any(reference.is_at(path) for path in listed):
                told.add(key)
                yield _missing(reference, listed, others)
    yield from _preload(settings.preload, listed, others)
    for path in unused_files(listed, workflows, settings.preload):
        yield Symptom(Level.NOTE, "unused_model", "deploy.models", f"no workflow uses {path}")


def _missing(
    reference: ModelReference, listed: Sequence[PurePosixPath], others: Sequence[str]
) -> Symptom:
    where = f"{reference.workflow}: {reference.place}"
    folder = " or ".join(reference.folders) or "its folder"
    elsewhere = [path for path in listed if reference.has_name_of(path)]
    if elsewhere:
        message = (
            f"{reference.class_type} looks for {reference.name} in {folder}, "
            f"and the list puts it at {elsewhere[0]}"
        )
        return Symptom(Level.ERROR, "model_elsewhere", where, message)
    message = f"{reference.class_type} needs {reference.name} in {folder}; the list has none"
    if others:
        message += f", unless it comes with {', '.join(others)}"
        return Symptom(Level.WARNING, "model_not_listed", where, message)
    return Symptom(Level.ERROR, "model_not_listed", where, message)


def _preload(
    preload: Sequence[str], listed: Sequence[PurePosixPath], others: Sequence[str]
) -> Iterator[Symptom]:
    for name in preload:
        if PurePosixPath(name) not in listed:
            level = Level.WARNING if others else Level.ERROR
            message = f"{name} is not on the list of models"
            yield Symptom(level, "model_not_listed", "deploy.preload", message)
        if not name.endswith((".safetensors", ".sft")):
            message = f"{name} is no safetensors file, which is all that can be preloaded"
            yield Symptom(Level.ERROR, "not_preloadable", "deploy.preload", message)
