"""What several topics share: identifiers, times, and the limits of a request."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

MAX_BODY_BYTES = 8 * 1024 * 1024


MAX_BATCH_RECORDS = 10_000


MAX_CHURN_IDS = 1_000


MAX_FEATURE_IDS = 1_000


MAX_AMOUNT = 1e12


MAX_CLOCK_SKEW_S = 86_400.0  # an event may be dated this far ahead of our clock


MAX_EXPIRY_S = 366 * 86_400.0


Identifier = Annotated[str, Meta(min_length=1, max_length=128)]


AwareDatetime = Annotated[datetime, Meta(tz=True)]
