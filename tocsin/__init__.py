"""Tocsin: priority notifications and real-time advertiser intelligence.

    from tocsin import Client

    with Client("http://127.0.0.1:8000") as client:
        receipt = client.send(type="emergency", title="Smoke in the hall", recipient="home-7")

Importing this package is light: the HTTP client is loaded when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tocsin.errors import TocsinError
from tocsin.wire.activity import ActivityAccepted, ActivityRequest
from tocsin.wire.churn import AtRiskAnswer, ChurnAnswer, ChurnBatchAnswer
from tocsin.wire.dead_letters import DeadLetterPage, DeadLetterView, Replayed
from tocsin.wire.features import FeatureRow, FeaturesAnswer
from tocsin.wire.insights import InsightAnswer
from tocsin.wire.lanes import Durability, LaneName
from tocsin.wire.notifications import (
    NotificationRequest,
    NotificationsAccepted,
    NotificationState,
    NotificationStatus,
    Receipt,
)
from tocsin.wire.problems import RecordError
from tocsin.wire.recipients import ChannelChoice, QuietSpan, Recipient, RecipientRequest

if TYPE_CHECKING:
    from tocsin.client import AsyncClient, Client

    __version__: str

__all__ = [
    "ActivityAccepted",
    "ActivityRequest",
    "AsyncClient",
    "AtRiskAnswer",
    "ChannelChoice",
    "ChurnAnswer",
    "ChurnBatchAnswer",
    "Client",
    "DeadLetterPage",
    "DeadLetterView",
    "Durability",
    "FeatureRow",
    "FeaturesAnswer",
    "InsightAnswer",
    "LaneName",
    "NotificationRequest",
    "NotificationState",
    "NotificationStatus",
    "NotificationsAccepted",
    "QuietSpan",
    "Receipt",
    "Recipient",
    "RecipientRequest",
    "RecordError",
    "Replayed",
    "TocsinError",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Load what costs time (the HTTP client, the package's metadata) when it is first used."""
    if name in {"AsyncClient", "Client"}:
        value: object = getattr(import_module("tocsin.client"), name)
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    metadata = import_module("importlib.metadata")
    try:
        return str(metadata.version("tocsin"))
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"
