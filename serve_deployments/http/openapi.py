"""The OpenAPI document, made from the endpoint tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from serve_deployments.http.application import Endpoint
from tocsin.wire.problems import Problem

STATUS_TEXT = {
    200: "The answer",
    202: "Accepted",
    401: "The API key is missing or wrong",
    404: "Not known",
    409: "The idempotency key was used for another request",
    413: "The body is larger than 8 MiB",
    415: "Neither JSON nor NDJSON",
    422: "A record or parameter is invalid: names the field and the limit",
    429: "Shed: try again after `Retry-After`",
    503: "Storage or the model is unavailable: try again after `Retry-After`",
}
_REF = "#/components/schemas/{name}"


def document(applications: Iterable[tuple[str, str, Iterable[Endpoint]]], *, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of all applications.

    Args:
        applications: Name, path prefix and endpoints of each.
        version: The product's version.
    """
    tables = [(name, prefix, tuple(endpoints)) for name, prefix, endpoints in applications]
    kinds = [
        kind for _, _, table in tables for e in table for kind in (e.answer, e.request) if kind is not None
    ]
    schemas, components = msgspec.json.schema_components([*kinds, Problem], ref_template=_REF)
    refs = dict(zip(map(repr, [*kinds, Problem]), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for name, prefix, table in tables:
        for endpoint in table:
            path = (prefix.rstrip("/") + endpoint.path).rstrip("/") or "/"
            shown = path.replace(":path}", "}")
            paths.setdefault(shown, {})[endpoint.method.lower()] = _operation(name, endpoint, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tocsin",
            "version": version,
            "description": "Priority notifications and advertiser intelligence.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
        "tags": [{"name": name} for name, _, _ in tables],
    }


def _operation(name: str, endpoint: Endpoint, refs: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": part, "in": "path", "required": True, "schema": {"type": "string"}}
        for part in re.findall(r"\{(\w+)(?::path)?\}", endpoint.path)
    ]
    parameters += [
        {"name": p.name, "in": p.where, "required": False, "description": p.description, "schema": p.schema}
        for p in endpoint.parameters
    ]
    answers: dict[str, Any] = {
        str(endpoint.status): {
            "description": STATUS_TEXT[endpoint.status],
            "content": {endpoint.media_type: {"schema": refs[repr(endpoint.answer)]}},
        }
    }
    for status in endpoint.problems:
        answers[str(status)] = {
            "description": STATUS_TEXT[status],
            "content": {"application/problem+json": {"schema": refs[repr(Problem)]}},
        }
    operation: dict[str, Any] = {
        "tags": [name],
        "operationId": f"{name}_{endpoint.handler}".replace("-", "_"),
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": answers,
    }
    if endpoint.description:
        operation["description"] = endpoint.description
    if endpoint.public:
        operation["security"] = []
    if endpoint.request is not None:
        operation["requestBody"] = {"required": True, "content": _bodies(endpoint, refs)}
    return operation


def _bodies(endpoint: Endpoint, refs: dict[str, Any]) -> dict[str, Any]:
    one = refs[repr(endpoint.request)]
    if not endpoint.many:
        return {"application/json": {"schema": one}}
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": 10_000}
    return {
        "application/json": {"schema": {"oneOf": [one, many]}},
        "application/x-ndjson": {"schema": {"type": "string", "description": "One JSON object a line"}},
    }
