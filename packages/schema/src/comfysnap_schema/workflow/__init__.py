"""A workflow folder: its input map, contract and history, and how inputs become a graph."""

from comfysnap_schema.workflow.apply import (
    DRAWING_FILE,
    GRAPH_FILE,
    SPEC_FILE,
    Workflow,
    add_workflow,
    find_workflows,
    load_workflows,
)
from comfysnap_schema.workflow.check import check_workflow, examples
from comfysnap_schema.workflow.contract import Contract, JsonSchema, travels_as_digits
from comfysnap_schema.workflow.diff import compare
from comfysnap_schema.workflow.from_contract import check_workflow_name, workflow_from_contract
from comfysnap_schema.workflow.history import CONTRACTS_FILE, read_history
from comfysnap_schema.workflow.loras import LORA_CLASSES
from comfysnap_schema.workflow.map import InputSpec, OutputSpec, WorkflowSpec, read_spec
from comfysnap_schema.workflow.matching import Matches, match_nodes
from comfysnap_schema.workflow.parameters import Parameter, ParameterType
from comfysnap_schema.workflow.prepare import PREPARE_FILE
from comfysnap_schema.workflow.project import (
    PROJECT_FILE,
    Project,
    SettingsError,
    find_project,
    locate_project,
    open_project,
    read_project,
    read_table,
    setting_error,
)

__all__ = [
    "CONTRACTS_FILE",
    "DRAWING_FILE",
    "GRAPH_FILE",
    "LORA_CLASSES",
    "PREPARE_FILE",
    "PROJECT_FILE",
    "SPEC_FILE",
    "Contract",
    "InputSpec",
    "JsonSchema",
    "Matches",
    "OutputSpec",
    "Parameter",
    "ParameterType",
    "Project",
    "SettingsError",
    "Workflow",
    "WorkflowSpec",
    "add_workflow",
    "check_workflow",
    "check_workflow_name",
    "compare",
    "examples",
    "find_project",
    "find_workflows",
    "load_workflows",
    "locate_project",
    "match_nodes",
    "open_project",
    "read_history",
    "read_project",
    "read_spec",
    "read_table",
    "setting_error",
    "travels_as_digits",
    "workflow_from_contract",
]
