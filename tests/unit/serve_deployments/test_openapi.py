from __future__ import annotations

from typing import Any

import msgspec
from openapi_spec_validator import validate

from serve_deployments.applications import documentation
from tocsin.wire.limits import TEXT_PATTERN


def test_the_document_is_valid_and_states_what_types_do_not() -> None:
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(documentation()))
    validate(document)
    schemas = document["components"]["schemas"]
    sent, shown = schemas["NotificationRequest"]["properties"], schemas["NotificationShown"]["properties"]
    assert sent["title"]["pattern"] == TEXT_PATTERN
    assert sent["data"]["propertyNames"]["pattern"] == TEXT_PATTERN
    assert "pattern" not in shown["title"]
    assert schemas["ActivityRequest"]["properties"]["currency"]["enum"] == ["", "USD"]
    assert "Europe/Berlin" in schemas["QuietSpan"]["properties"]["timezone"]["enum"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == {
                part.rstrip("}") for part in path.split("{")[1:] for part in [part.partition("/")[0]]
            }
            assert operation["responses"].keys() & {"429", "503"}
