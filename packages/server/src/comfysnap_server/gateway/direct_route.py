"""A FastAPI route whose parameters are read at once: one model for the query, one for the headers.

FastAPI's dependency solver is general, and costs a request of ours a quarter of its time; what it
reads from a signature for OpenAPI stays the same.
"""

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar, get_args, get_origin

from fastapi import Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)
Read = Callable[[Request], Any]


class DirectRoute(APIRoute):
    """For endpoints whose parameters are all of these: the ``Request``, a ``str`` of the path, and
    models annotated with ``Query()`` or ``Header()``, whose header fields have aliases."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        endpoint = self.endpoint
        readers = {
            name: _reader(name, parameter.annotation)
            for name, parameter in inspect.signature(endpoint, eval_str=True).parameters.items()
        }

        async def handle(request: Request) -> Response:
            return await endpoint(**{name: read(request) for name, read in readers.items()})

        return handle


def _reader(name: str, annotation: Any) -> Read:
    if annotation is Request:
        return lambda request: request
    if annotation is str:
        return lambda request: request.path_params[name]
    model, place = get_args(annotation)[:2]
    fields = {
        field.alias or key: get_origin(field.annotation) is list
        for key, field in model.model_fields.items()
    }
    if isinstance(place, params.Header):
        return lambda request: read_headers(request, model, fields)
    if isinstance(place, params.Query):
        return lambda request: read_query(request, model, fields)
    raise TypeError(f"{name}: neither of the query nor of the headers")


def read_query(request: Request, model: type[M], fields: Mapping[str, bool]) -> M:
    """The query as a model; ``fields`` says of each name whether it may stand several times.

    Raises:
        RequestValidationError: It does not fit.
    """
    if not request.scope["query_string"]:
        return _validated(model, "query", {})
    query = request.query_params
    given = {key: query.getlist(key) if fields.get(key) else query[key] for key in query}
    return _validated(model, "query", given)


def read_headers(request: Request, model: type[M], fields: Mapping[str, bool]) -> M:
    """The headers that are fields of the model.

    Raises:
        RequestValidationError: One does not fit.
    """
    headers = request.headers
    found = {name: headers.get(name) for name in fields}
    return _validated(
        model, "header", {name: value for name, value in found.items() if value is not None}
    )


def _validated(model: type[M], place: str, given: Mapping[str, Any]) -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError(
            [{**item, "loc": (place, *item["loc"])} for item in found]
        ) from error
