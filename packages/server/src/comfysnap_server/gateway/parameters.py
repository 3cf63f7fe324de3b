"""Routes that read their query and headers themselves. FastAPI's own way takes a fifth of the time
of a status, and of a submit (``benchmarks/gateway_load.py``)."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

ModelT = TypeVar("ModelT", bound=BaseModel)

_REF: Final = "#/components/schemas/{model}"


class DirectRoute(APIRoute):
    """Calls its function with the request and the parameters of the path; what else it has in
    OpenAPI comes from ``parameters_of``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._names = [found.name for found in self.dependant.path_params]
        self.app = self._respond

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        given = request.path_params
        response = await self.endpoint(request, **{name: given[name] for name in self._names})
        await response(scope, receive, send)


def read_query(request: Request, model: type[ModelT]) -> ModelT:
    """The query of a request; a field whose default is a list may be repeated.

    Raises:
        RequestValidationError: It is not valid.
    """
    text = request.scope["query_string"]
    return _read(model, _values(QueryParams(text), model) if text else {}, "query")


def read_headers(request: Request, model: type[ModelT]) -> ModelT:
    """The headers of a request that are fields of ``model``, by their aliases.

    Raises:
        RequestValidationError: One is not valid.
    """
    aliases = (field.alias or name for name, field in model.model_fields.items())
    found = {alias: request.headers.get(alias) for alias in aliases}
    return _read(model, {k: v for k, v in found.items() if v is not None}, "header")


def parameters_of(model: type[BaseModel], place: str) -> list[dict[str, Any]]:
    """What ``read_query`` or ``read_headers`` reads, for OpenAPI."""
    schema = model.model_json_schema(ref_template=_REF)
    return [
        {
            "name": name,
            "in": place,
            "required": name in schema.get("required", ()),
            "schema": found,
            "description": found.get("description", ""),
        }
        for name, found in schema["properties"].items()
    ]


def _values(query: QueryParams, model: type[BaseModel]) -> dict[str, Any]:
    return {name: query.getlist(name) if _is_list(model, name) else query[name] for name in query}


def _is_list(model: type[BaseModel], name: str) -> bool:
    field = model.model_fields.get(name)
    return field is not None and isinstance(field.default, list)


@cache
def _defaults(model: type[ModelT]) -> ModelT:
    """The models are frozen, so one serves all requests."""
    return model()


def _read(model: type[ModelT], values: Mapping[str, Any], place: str) -> ModelT:
    try:
        return model.model_validate(values) if values else _defaults(model)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        raise RequestValidationError(
            [{**found, "loc": (place, *found["loc"])} for found in errors]
        ) from error
