"""The OpenAPI document: complete, consistent, and true of what is served."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from apifake import Client, FakeCore, break_ranks, fleet_config, three_nodes
from closeranks_coordinator.web.app import OPENAPI_PATH, build_app
from closeranks_coordinator.web.openapi import document
from closeranks_coordinator.web.routes import ROUTES


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[FakeCore]:
    made = FakeCore(tmp_path, fleet_config())
    await three_nodes(made)
    yield made
    await made.close()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, found in value.items():
            if key == "$ref":
                yield found
            else:
                yield from references(found)
    elif isinstance(value, list):
        for found in value:
            yield from references(found)


def operations(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


async def test_every_served_route_is_described_and_nothing_else(core: FakeCore) -> None:
    async with Client(core) as client:
        found = await client.json(OPENAPI_PATH)
        served = {
            (route.resource.canonical, route.method.lower())
            for route in client.server.app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
    assert found["openapi"] == "3.1.0"
    assert {(path, method) for path, method, _ in operations(found)} == served
    assert {
        "/api/v1/fleet", "/api/v1/nodes", "/api/v1/nodes/{node}", "/api/v1/nodes/{node}/trash",
        "/api/v1/nodes/{node}/trash/restore", "/api/v1/volumes", "/api/v1/volumes/{volume}",
        "/api/v1/volumes/{volume}/diff", "/api/v1/volumes/{volume}/conflicts", "/api/v1/speed", "/api/v1/scrub",
        "/api/v1/volumes/{volume}/pin", "/api/v1/incidents",
        "/api/v1/incidents/{id}", "/api/v1/incidents/{id}/report", "/api/v1/nodes/{node}/quarantine",
        "/api/v1/nodes/{node}/release", "/api/v1/nodes/{node}/resync", "/api/v1/actions",
        "/api/v1/actions/{id}", "/api/v1/baselines", "/api/v1/baselines/{name}", "/api/v1/events",
        "/api/v1/held", "/api/v1/held/{id}", "/api/v1/held/{id}/allow", "/api/v1/held/{id}/reject",
        "/api/v1/openapi.json", "/lb/{node}", "/metrics", "/-/healthy", "/-/ready", "/-/reload",
    } == set(found["paths"])  # fmt: skip


def test_the_document_is_whole() -> None:
    found = msgspec.json.decode(msgspec.json.encode(document(ROUTES, "1.2.3", tokens=False)))
    schemas = found["components"]["schemas"]
    for reference in references(found):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    names = [operation["operationId"] for _, _, operation in operations(found)]
    assert len(names) == len(set(names))
    for path, method, operation in operations(found):
        assert operation["summary"], path
        in_path = [one["name"] for one in operation.get("parameters", []) if one["in"] == "path"]
        assert [f"{{{name}}}" in path for name in in_path] == [True] * path.count("{")
        assert any(status.startswith("2") for status in operation["responses"])
        for status, response in operation["responses"].items():
            assert response["description"]
            if status >= "400" and path not in ("/lb/{node}", "/-/ready"):
                error = response["content"]["application/json"]["schema"]
                assert error == {"$ref": "#/components/schemas/ErrorView"}, (path, status)
        assert ("requestBody" in operation) <= (method == "post")
    assert "security" not in found


def test_every_refusal_code_is_listed_and_bodies_refuse_unknown_fields() -> None:
    found = document(ROUTES, "1.2.3", tokens=False)
    quarantine = found["paths"]["/api/v1/nodes/{node}/quarantine"]["post"]
    for status, code in [("404", "unknown_node"), ("409", "quorum_would_be_lost"), ("413", "too_large")]:
        assert f"`{code}`" in quarantine["responses"][status]["description"]
    schema = found["components"]["schemas"]["QuarantineBody"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["reason"]
    assert schema["properties"]["reason"]["maxLength"] == 500


def test_answers_promise_every_field() -> None:
    schemas = document(ROUTES, "1.2.3", tokens=False)["components"]["schemas"]
    for name in ("FleetView", "NodeView", "IncidentView", "PathView", "NodePage", "DiffPage", "ErrorView"):
        assert sorted(schemas[name]["required"]) == sorted(schemas[name]["properties"]), name


def test_with_tokens_the_document_asks_for_them_where_they_are_needed() -> None:
    found = document(ROUTES, "1.2.3", tokens=True)
    assert found["security"] == [{"token": []}]
    assert found["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    assert found["paths"]["/lb/{node}"]["get"]["security"] == []
    assert "security" not in found["paths"]["/metrics"]["get"]
    assert "401" in found["paths"]["/api/v1/fleet"]["get"]["responses"]
    assert "401" not in found["paths"]["/lb/{node}"]["get"]["responses"]


def conforms(schema: dict[str, Any], value: Any, schemas: dict[str, Any], where: str = "$") -> None:
    """A small reading of JSON schema: enough for what msgspec writes."""
    if "$ref" in schema:
        conforms(schemas[schema["$ref"].removeprefix("#/components/schemas/")], value, schemas, where)
        return
    if "anyOf" in schema:
        for option in schema["anyOf"]:
            try:
                conforms(option, value, schemas, where)
            except AssertionError:
                continue
            return
        raise AssertionError(f"{where}: {value!r} is none of {schema['anyOf']}")
    if "enum" in schema:
        assert value in schema["enum"], f"{where}: {value!r}"
        return
    match schema.get("type"):
        case "object":
            assert isinstance(value, dict), where
            properties = schema.get("properties", {})
            assert set(schema.get("required", ())) <= set(value), where
            extra = schema.get("additionalProperties")
            for key, found in value.items():
                if key in properties:
                    conforms(properties[key], found, schemas, f"{where}.{key}")
                elif isinstance(extra, dict):
                    conforms(extra, found, schemas, f"{where}.{key}")
                else:
                    assert not properties, f"{where}.{key} is not described"
        case "array":
            assert isinstance(value, list), where
            items = schema.get("items")
            for index, found in enumerate(value):
                if "prefixItems" in schema and index < len(schema["prefixItems"]):
                    conforms(schema["prefixItems"][index], found, schemas, f"{where}[{index}]")
                elif isinstance(items, dict):
                    conforms(items, found, schemas, f"{where}[{index}]")
        case "string":
            assert isinstance(value, str), f"{where}: {value!r}"
        case "integer":
            assert isinstance(value, int), f"{where}: {value!r}"
            assert not isinstance(value, bool), where
        case "number":
            assert isinstance(value, int | float), f"{where}: {value!r}"
        case "boolean":
            assert isinstance(value, bool), where
        case "null":
            assert value is None, f"{where}: {value!r}"


async def test_real_answers_conform_to_their_schemas(core: FakeCore) -> None:
    await break_ranks(core)
    filled = {"node": "node-02", "volume": "photos", "name": "good", "id": "i-000001"}
    async with Client(core) as client:
        await client.ask("POST", "/api/v1/baselines", {"name": "good", "volume": "photos"})
        _, body, _ = await client.ask("POST", "/api/v1/nodes/node-02/quarantine", {"reason": "x"})
        found = await client.json(OPENAPI_PATH)
        schemas = found["components"]["schemas"]
        seen = set()
        for path, method, operation in operations(found):
            if method != "get" or path in ("/api/v1/events", "/metrics", OPENAPI_PATH):
                continue
            target = path.format(**filled)
            if path == "/api/v1/actions/{id}":
                target = f"/api/v1/actions/{msgspec.json.decode(body)['action']}"
            if path.endswith("/diff"):
                target += "?node=node-02"
            status, answer, got = await client.ask("GET", target)
            described = operation["responses"][str(status)]["content"]
            assert got.content_type in described, (path, got.content_type)
            if got.content_type == "application/json":
                conforms(described["application/json"]["schema"], msgspec.json.decode(answer), schemas, path)
                seen.add((path, status))
        assert ("/api/v1/nodes/{node}", 200) in seen
        assert ("/lb/{node}", 503) in seen
        assert ("/api/v1/nodes/{node}/trash", 503) in seen


def test_the_check_itself_finds_what_does_not_conform() -> None:
    schemas = {"S": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}
    conforms({"$ref": "#/components/schemas/S"}, {"a": 1}, schemas)
    for bad in ({}, {"a": "1"}, {"a": 1, "b": 2}, []):
        with pytest.raises(AssertionError):
            conforms({"$ref": "#/components/schemas/S"}, bad, schemas)


async def test_the_application_is_an_aiohttp_application(core: FakeCore) -> None:
    assert isinstance(build_app(core), web.Application)
