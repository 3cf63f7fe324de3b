"""Typed Python modules from workflows, through datamodel-code-generator and ruff."""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from comfysnap_schema.codegen.schema import HEADER, ModuleSchema, module_schema
from comfysnap_schema.wire import WorkflowError
from comfysnap_schema.workflow import SPEC_FILE, Workflow

_TEMPLATES = Path(__file__).parent / "templates"
_MODELS = "comfysnap_schema.models"
_NAMES = (
    "WorkflowInput", "OneOf", "NoBool", "Field", "FileInput", "BigInt", "JsonValue", "Lora",
    "LoraLimits", "ModelInput",
)  # fmt: skip
"""What templates and annotations of our own may use; ruff removes the imports of the others."""
_RUFF = (sys.executable, "-m", "ruff")
_STYLE = ("--isolated", "--no-cache", "--quiet", "--line-length=100", "--target-version=py311")
_TIDY = (
    ("check", "--fix", "--select=F401", *_STYLE),
    # A separate step: otherwise an import list that was too long stays split over several lines.
    (
        "check",
        "--fix",
        "--select=I",
        "--config=lint.isort.known-first-party=['comfysnap_schema']",
        *_STYLE,
    ),
    ("format", *_STYLE),
)


def generate(workflows: Mapping[str, Workflow], *, package: str = "") -> dict[str, str]:
    """One module for each workflow and an ``__init__.py`` that exports all their models.

    Args:
        workflows: By name.
        package: Dotted name of the package that the files will be in; empty when unknown.

    Returns:
        File name to source; the same workflows always give the same bytes.

    Raises:
        WorkflowError: ``reserved_name``: a name that is a Python keyword; ``duplicate_class``: two
            names that give the same class name.
    """
    modules = {name: module_schema(workflow) for name, workflow in sorted(workflows.items())}
    _check_class_names(modules, workflows)
    sources = {f"{name}.py": _module(schema) for name, schema in modules.items()}
    sources["__init__.py"] = _package(modules, package)
    return _tidy(sources)


def _check_class_names(
    modules: Mapping[str, ModuleSchema], workflows: Mapping[str, Workflow]
) -> None:
    owners: dict[str, str] = {}
    for name, schema in modules.items():
        other = owners.setdefault(schema.input_name, name)
        if other != name:
            raise WorkflowError(
                "duplicate_class",
                f"{name!r} and {other!r} both generate the class {schema.input_name}; rename one",
                file=str(workflows[name].folder / SPEC_FILE),
                field="name",
            )


def _module(schema: ModuleSchema) -> str:
    from datamodel_code_generator import InputFileType, LiteralType, PythonVersion
    from datamodel_code_generator import generate as generate_models
    from datamodel_code_generator.enums import DataModelType

    template_data: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    template_data.update({f"#/$defs/{name}": dict(data) for name, data in schema.template.items()})
    source = generate_models(
        json.dumps({"$defs": schema.definitions}),
        input_file_type=InputFileType.JsonSchema,
        output_model_type=DataModelType.PydanticV2BaseModel,
        target_python_version=PythonVersion.PY_311,
        custom_file_header=schema.docstring,
        custom_template_dir=_TEMPLATES,
        extra_template_data=template_data,
        base_class=f"{_MODELS}.WorkflowOutput",
        additional_imports=[
            "typing.Annotated",
            "typing.Literal",
            *(f"{_MODELS}.{name}" for name in _NAMES),
        ],
        import_overrides={"Field": _MODELS, "JsonValue": _MODELS},
        enum_field_as_literal=LiteralType.All,
        field_constraints=True,
        use_annotated=True,
        use_standard_collections=True,
        use_union_operator=True,
        use_type_alias=True,
        strict_nullable=True,
        use_double_quotes=True,
        skip_root_model=True,
        disable_future_imports=True,
        formatters=[],
    )
    return cast("str", source)  # one document without $ref files makes one module


def _package(modules: Mapping[str, ModuleSchema], package: str) -> str:
    imports = [
        f"from {package}.{name} import {schema.input_name}, {schema.output_name}"
        for name, schema in modules.items()
    ]
    names = sorted(
        n for schema in modules.values() for n in (schema.input_name, schema.output_name)
    )
    return "\n".join(
        [
            f'"""Typed models of every workflow.\n\n{HEADER}\n"""\n',
            *imports,
            f"\n__all__ = {names}\n",
        ]
    )


def _tidy(sources: Mapping[str, str]) -> dict[str, str]:
    """Sort imports and format with ruff, regardless of any configuration on this machine."""
    with tempfile.TemporaryDirectory(prefix="comfysnap-") as name:
        folder = Path(name)
        for file, source in sources.items():
            (folder / file).write_text(source, encoding="utf-8")
        for command in _TIDY:
            subprocess.run([*_RUFF, *command, str(folder)], check=True)
        return {file: (folder / file).read_text(encoding="utf-8") for file in sources}
