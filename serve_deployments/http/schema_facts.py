"""What the schemas of requests say beyond their types: the names that are known, and how an address is written."""

from __future__ import annotations

from zoneinfo import available_timezones

from features.definitions import FEATURES, REQUESTED
from routing.channels import ACCOUNTS
from routing.channels.addresses import ADDRESS_PATTERN
from serve_deployments.http.openapi import Facts
from tocsin.settings import Settings


def schema_facts(settings: Settings) -> Facts:
    """By struct and field.

    Args:
        settings: The currency.
    """
    address = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": ADDRESS_PATTERN}
    return {
        "ActivityRequest": {"currency": {"enum": ["", settings.currency]}},
        "QuietSpan": {"timezone": {"enum": sorted(available_timezones())}},
        "RecipientRequest": {"targets": {"properties": dict.fromkeys(sorted(ACCOUNTS), address)}},
        "FeaturesRequest": {
            "features": {"items": {"enum": [feature.name for feature in FEATURES]}},
            "values": {"propertyNames": {"enum": list(REQUESTED)}},
        },
    }
