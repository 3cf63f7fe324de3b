"""The reference says everything that there is, and nothing without a word of explanation."""

import re
from collections.abc import Iterator

import pytest

import comfysnap_client
from comfysnap_schema.wire import ErrorCode
from comfysnap_schema.workflow.map import InputSpec, OutputSpec, WorkflowSpec
from comfysnap_schema.workflow.project import ProjectTable
from comfysnap_server.deploy import DeploySettings
from comfysnap_server.serve_settings import ServeSettings
from docs.generate import PARTS, causes_and_cures, settings_of, table_of
from tests.docs.blocks import DOCS


def described(model: type) -> Iterator[tuple[str, str]]:
    """Each key of a table and of those inside of it, with its text."""
    for setting in settings_of(model):
        inner = table_of(setting.annotation)
        if inner is not None:
            yield from described(inner[0])
        elif (model, setting.name) not in {(ProjectTable, "serve"), (ProjectTable, "deploy")}:
            yield f"{model.__name__}.{setting.name}", setting.text


@pytest.mark.parametrize(
    "model", [WorkflowSpec, InputSpec, OutputSpec, ProjectTable, ServeSettings, DeploySettings]
)
def test_every_key_has_a_text(model: type) -> None:
    assert [key for key, text in described(model) if not text] == []


def test_every_error_code_has_a_cause_and_a_cure() -> None:
    assert set(causes_and_cures()) == set(ErrorCode)


def test_every_table_command_route_and_name_is_on_its_page() -> None:
    written = {name: part() for name, part in PARTS.items()}
    for table in ("[serve.local]", "[deploy.pools.NAME]", "[[deploy.models]]", "[serve.webhooks]"):
        assert f"## `{table}`" in written["comfysnap-toml"]
    assert "| `each` | array of string, at least 1 item |" in written["workflow-toml"]
    assert "## `comfysnap keys add`" in written["commands"]
    assert "### `POST /infer_sync/{workflow}`" in written["http-api"]
    shown = re.findall(r"^::: [\w.]+\.(\w+)$", written["python"], re.MULTILINE)
    assert set(comfysnap_client.__all__) <= set(shown)


def test_every_part_is_included_by_its_page() -> None:
    for name in PARTS:
        page = (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")
        assert f'--8<-- "{name}.md"' in page
