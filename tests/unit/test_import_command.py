from __future__ import annotations

import pytest

from features.importing import ImportBatch
from tocsin.cli.importing import _refused
from tocsin.errors import RequestFailedError
from tocsin.schemas import Activity, RecordError

BATCH = ImportBatch(
    activities=[
        Activity("a", 86_400.0, 1.0, "spend", "1", "", "USD"),
        Activity("b", 86_400.0, 2.0, "spend", "2", "", "EUR"),
    ],
    lines=[3, 9],
)


def test_a_row_that_only_the_platform_refuses_is_a_reject_with_its_line_field_and_limit() -> None:
    errors = [RecordError(index=1, detail="`currency` is EUR", field="currency", limit="only USD")]
    (reject,) = _refused(BATCH, errors)
    assert (reject.line, reject.reason) == (9, "`currency` is EUR: only USD")
    assert reject.raw["advertiser_id"] == "b"
    assert reject.raw["event_time"] == "1970-01-02T00:00:00Z"
    assert "campaign_id" not in reject.raw
    assert _refused(BATCH, []) == []


def test_a_platform_that_could_not_take_a_row_is_no_fault_of_the_row() -> None:
    errors = [RecordError(index=0, detail="the lane is full", field="", limit="", code="overloaded")]
    with pytest.raises(RequestFailedError, match="line 3 was not accepted: the lane is full"):
        _refused(BATCH, errors)
