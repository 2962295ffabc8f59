"""The OpenAPI 3.1 document, made from the table of routes and the types of its answers.

Nothing is described twice: a route that is served is in the document, a field that is answered is in its
schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from ..core.shapes import IncidentView, View
from .call import BODY_MAX_BYTES, Param
from .schemas import ErrorView

_NO_NUL = r"^[^\u0000]+$"
_REF = "#/components/schemas/{name}"
_COMMON = {
    "get": ((400, "bad_query", "an unknown, repeated or impossible query parameter"),),
    "post": (
        (400, "bad_body", "a field that is unknown, missing or of the wrong type"),
        (400, "bad_json", "not JSON"),
        (403, "foreign_host", "an order that is not addressed to this machine"),
        (403, "foreign_origin", "an order from another site's page"),
        (413, "too_large", f"a body of more than {BODY_MAX_BYTES} bytes"),
        (415, "not_json", "another Content-Type than application/json"),
    ),
}


def document(routes: Iterable[Any], version: str, tokens: bool) -> dict[str, Any]:
    """The document as JSON-able values. `routes` are `api_routes.Route`; `tokens`: whether one is needed."""
    listed = list(routes)
    types = [kind for route in listed for kind in (route.gives, route.body) if kind is not None]
    schemas, components = msgspec.json.schema_components([*types, ErrorView, IncidentView], ref_template=_REF)
    of_type = dict(zip([*types, ErrorView, IncidentView], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in listed:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, of_type, tokens)
    for schema in components.values():
        _answered_in_full(schema)
    for body in {route.body for route in listed if route.body is not None and route.body.contradictions}:
        components[body.__name__]["not"] = {
            "anyOf": [{"properties": one, "required": list(one)} for one in body.contradictions]
        }
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "closeranks coordinator",
            "version": version,
            "description": "Which node breaks ranks, since when, in which files; and what is done about it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }
    if tokens:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found


def _operation(route: Any, of_type: dict[Any, Any], tokens: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.text,
        "tags": [_tag(route.path)],
        "responses": _responses(route, of_type, tokens),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ] + [_parameter(param) for param in route.query]
    if route.name == "follow_events":
        parameters.append(
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "Resume behind this id.",
                "schema": {"type": "string"},
            }
        )
    if parameters:
        found["parameters"] = parameters
    if route.body is not None:
        required = any(field.required for field in msgspec.structs.fields(route.body))
        found["requestBody"] = {
            "required": required,
            "content": {"application/json": {"schema": of_type[route.body]}},
        }
    if route.open and tokens:
        found["security"] = []
    return found


def _tag(path: str) -> str:
    parts = path.strip("/").split("/")
    return parts[2] if parts[0] == "api" else "machines"


def _parameter(param: Param) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": param.kind}
    if param.choices:
        schema["enum"] = list(param.choices)
    if param.kind == "string" and not param.choices:
        schema |= {"minLength": 1, "maxLength": param.max_length, "pattern": _NO_NUL}
    if param.low is not None:
        schema |= {"minimum": param.low, "maximum": param.high}
    if param.default is not None:
        schema["default"] = param.default
    return {
        "name": param.name,
        "in": "query",
        "required": param.required,
        "description": param.text,
        "schema": schema,
    }


def _responses(route: Any, of_type: dict[Any, Any], tokens: bool) -> dict[str, Any]:
    if route.gives is not None:
        content = {"application/json": {"schema": of_type[route.gives]}}
    else:
        content = {media: {"schema": {"type": "string"}} for media in route.media}
        if "application/json" in content:
            content["application/json"] = {"schema": of_type[IncidentView]}
    found: dict[str, Any] = {str(route.status): {"description": "As asked.", "content": content}}
    for status, text in route.also:
        found[str(status)] = {"description": text, "content": content}
    common = _COMMON["get" if route.method == "GET" else "post"] if route.strict else ()
    refusals = [*common, *route.refusals]
    if tokens and not route.open:
        refusals.append((401, "token_missing", "no token, or one that is not known"))
    for status in sorted({status for status, _, _ in refusals}):
        codes = [(code, text) for found_status, code, text in refusals if found_status == status]
        found.setdefault(
            str(status),
            {
                "description": "; ".join(f"`{code}`: {text}" for code, text in codes),
                "content": {"application/json": {"schema": of_type[ErrorView]}},
            },
        )
    # What can not be read as HTTP (a line of more than 8,190 bytes) never comes to a route.
    if "400" in found:
        found["400"]["content"]["text/plain"] = {"schema": {"type": "string"}}
    return found


def _answered_in_full(schema: dict[str, Any]) -> None:
    """Answers always carry every field; msgspec leaves those with a default out of `required`."""
    name = schema.get("title")
    views = {kind.__name__ for kind in _all_views(View)}
    if name in views and "properties" in schema:
        schema["required"] = sorted(schema["properties"])


def _all_views(kind: type[View]) -> Iterable[type[View]]:
    for below in kind.__subclasses__():
        yield below
        yield from _all_views(below)
