"""ComfyUI's side of a workflow: graphs, node classes, validation, the import of UI exports."""

from comfysnap_schema.comfy.catalogue import CATALOGUE_FILE, Catalogue
from comfysnap_schema.comfy.definitions import MATCH_TYPE, InputDef, NodeDef, is_model_name
from comfysnap_schema.comfy.graph import (
    Graph,
    InputPath,
    canonical_json,
    graph_hash,
    is_link,
    parse_graph,
    read_graph,
    title_of,
    without_notes,
)
from comfysnap_schema.comfy.loaders import loader_kind
from comfysnap_schema.comfy.model_files import (
    EMBEDDING,
    MODEL_FOLDERS,
    RENAMED_FOLDERS,
    ModelName,
    model_names,
    with_forward_slashes,
)
from comfysnap_schema.comfy.picture import read_editor_workflow
from comfysnap_schema.comfy.ui_export import (
    Drawing,
    ModelSource,
    ShownWidget,
    UsedPack,
    read_drawing,
    read_export,
)
from comfysnap_schema.comfy.validation import Issue, validate_graph

__all__ = [
    "CATALOGUE_FILE",
    "EMBEDDING",
    "MATCH_TYPE",
    "MODEL_FOLDERS",
    "RENAMED_FOLDERS",
    "Catalogue",
    "Drawing",
    "Graph",
    "InputDef",
    "InputPath",
    "Issue",
    "ModelName",
    "ModelSource",
    "NodeDef",
    "ShownWidget",
    "UsedPack",
    "canonical_json",
    "graph_hash",
    "is_link",
    "is_model_name",
    "loader_kind",
    "model_names",
    "parse_graph",
    "read_drawing",
    "read_editor_workflow",
    "read_export",
    "read_graph",
    "title_of",
    "validate_graph",
    "with_forward_slashes",
    "without_notes",
]
