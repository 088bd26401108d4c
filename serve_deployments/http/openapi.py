"""The OpenAPI document, made from the endpoint tables."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from serve_deployments.http.application import Endpoint
from tocsin.wire.limits import TEXT_PATTERN
from tocsin.wire.problems import Problem

STATUS_TEXT = {
    200: "The answer",
    202: "Accepted",
    401: "The API key is missing or wrong",
    404: "Not known",
    405: "Not a method of this path: `Allow` lists them",
    409: "The request contradicts what is stored: an idempotency key used for another request, a mask without a value",
    408: "The request did not arrive in time: send it again, in one piece",
    413: "The body is larger than 8 MiB, as sent or inflated",
    415: "Neither JSON nor NDJSON, or a `Content-Encoding` other than gzip and deflate",
    422: "A record or parameter is invalid: names the field and the limit",
    429: "Shed: try again after `Retry-After`",
    502: "The replica that had the request ended before it answered: try again after `Retry-After`",
    503: "Storage, the model or this part of the platform is unavailable: try again after `Retry-After`",
    504: "No answer in time; the request may have been carried out: repeat it with the same `Idempotency-Key`",
}
EVERYWHERE = (408, 502, 503, 504)  # answered by the edge, whatever the operation; 504 by a replica as well
# Requests whose texts `refuse_control_characters` looks at.
CLEAN = (
    "ClassificationRequest",
    "NotificationRequest",
    "ActivityRequest",
    "ChurnBatchRequest",
    "FeaturesRequest",
    "RecipientRequest",
    "DeadLetterFilter",
)
_REF = "#/components/schemas/{name}"


class ApplicationTable(msgspec.Struct, frozen=True):
    """One application as it is documented."""

    name: str
    prefix: str
    endpoints: tuple[Endpoint, ...]
    shed_status: int  # what an operation answers that is turned away, before its application sees it


Facts = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By struct and field: what a JSON schema can say of it, and its type does not: the names there are, patterns."""


def document(applications: Iterable[ApplicationTable], *, version: str, facts: Facts) -> dict[str, Any]:
    """The OpenAPI 3.1 document of all applications.

    Args:
        applications: Each with its endpoints.
        version: The product's version.
        facts: Added to the schemas of requests.
    """
    tables = list(applications)
    kinds = [
        kind
        for table in tables
        for e in table.endpoints
        for kind in (e.answer, e.request)
        if kind is not None
    ]
    schemas, components = msgspec.json.schema_components([*kinds, Problem], ref_template=_REF)
    refs = dict(zip(map(repr, [*kinds, Problem]), schemas, strict=True))
    _tell_sent_from_shown(components)
    _state_texts(components)
    _state_facts(components, facts)
    paths: dict[str, dict[str, Any]] = {}
    for table in tables:
        for endpoint in table.endpoints:
            path = (table.prefix.rstrip("/") + endpoint.path).rstrip("/") or "/"
            shown = path.replace(":text}", "}")
            paths.setdefault(shown, {})[endpoint.method.lower()] = _operation(table, endpoint, refs)
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
        "tags": [{"name": table.name} for table in tables],
    }


def _tell_sent_from_shown(components: dict[str, Any]) -> None:
    """Give what answers show of a notification a schema of its own: an emergency call's may hold any text."""
    sent, shown = (_REF.format(name=name) for name in ("NotificationRequest", "NotificationShown"))
    components["NotificationShown"] = copy.deepcopy(components["NotificationRequest"])
    for name in ("NotificationStatus", "DeadLetterView"):
        text = msgspec.json.encode(components[name]).decode().replace(f'"{sent}"', f'"{shown}"')
        components[name] = msgspec.json.decode(text)
    del components["NotificationShown"]["properties"]["source"]["not"]


def _state_texts(components: dict[str, Any]) -> None:
    """Every text of a request but those with a pattern of their own: no control characters."""
    for kind in CLEAN:
        for schema in components.get(kind, {}).get("properties", {}).values():
            for one in _strings(schema):
                one.setdefault("pattern", TEXT_PATTERN)


def _strings(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The texts in a field, in its items, names and values."""
    if schema.get("type") == "string" and not schema.keys() & {"enum", "format"}:
        yield schema
    if "propertyNames" in schema:
        yield schema["propertyNames"]
    inner = [schema.get(name) for name in ("items", "additionalProperties")]
    for one in (*inner, *schema.get("anyOf", ())):
        if isinstance(one, dict):
            yield from _strings(one)


def _state_facts(components: dict[str, Any], facts: Facts) -> None:
    for kind, fields in facts.items():
        for name, schema in fields.items():
            components[kind]["properties"][name] |= schema


def _operation(table: ApplicationTable, endpoint: Endpoint, refs: dict[str, Any]) -> dict[str, Any]:
    name = table.name
    parameters = [
        {
            "name": p.name,
            "in": p.where,
            "required": p.where == "path",
            "description": p.description,
            "schema": p.schema,
        }
        for p in endpoint.parameters
    ]
    answers: dict[str, Any] = {
        str(status): {
            "description": STATUS_TEXT[status],
            "content": {endpoint.media_type: {"schema": refs[repr(endpoint.answer)]}},
        }
        for status in (endpoint.status, *endpoint.also)
    }
    for status in sorted({*endpoint.problems, table.shed_status, *EVERYWHERE}):
        answer = answers.setdefault(str(status), {"description": STATUS_TEXT[status], "content": {}})
        answer["content"]["application/problem+json"] = {"schema": refs[repr(Problem)]}
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
