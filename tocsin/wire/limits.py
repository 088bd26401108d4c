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


MAX_ID = 128  # characters of an identifier


# A text as `refuse_control_characters` takes it: no control characters but tab and newline.
TEXT_PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"


# As `check_webhook_url` takes it.
URL_PATTERN = r"^https?://[!-~]+$"


Identifier = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]


AwareDatetime = Annotated[datetime, Meta(tz=True)]
