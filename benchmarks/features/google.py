"""A real file end to end: its rows through the lane to servable vectors, and the same features made by pandas."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from features.definitions import DAY_S, FEATURES, LIFETIME, Aggregation
from features.importing.importer import read_activity
from features.online.as_of import latest_as_of
from tocsin.settings import Settings
from tocsin.storage.connect import WRITE_TIMEOUT_S, connect, resolve_url
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Record, partition_of
from tocsin.wire.lanes import LaneName

FILE = (
    Path(__file__).resolve().parents[3]
    / "shared"
    / "data"
    / "google_ads_spend"
    / "advertiser_weekly_spend.parquet"
)
_encode = msgspec.msgpack.Encoder().encode


async def send_file(settings: Settings, path: Path) -> int:
    """Read a file and put its rows into the lane, as the import does behind HTTP; returns how many."""
    client = connect(resolve_url(settings), timeout_s=WRITE_TIMEOUT_S)
    try:
        lane = Lane.of(client, settings, LaneName.ACTIVITY)
        sent, now = 0, time.time()
        for batch in read_activity(path, None, now):
            sent_events = [
                msgspec.structs.replace(event, arrival=now, backdated=True) for event in batch.activities
            ]
            await lane.append(
                [
                    Record(partition_of(event.advertiser_id, lane.partitions), _encode(event))
                    for event in sent_events
                ]
            )
            sent += len(sent_events)
        return sent
    finally:
        await client.aclose()


def with_pandas(path: Path) -> tuple[pd.DataFrame, float]:
    """The same features by groupby, as of the midnight after the newest row; and that time."""
    table = pd.read_parquet(path, columns=["Advertiser_ID", "Week_Start_Date", "Spend_USD"])
    start = pd.to_datetime(table["Week_Start_Date"], utc=True).astype("datetime64[s, UTC]").astype("int64")
    events = pd.DataFrame(
        {
            "advertiser": table["Advertiser_ID"],
            "time": start + 7 * DAY_S - 1,
            "micros": np.rint(table["Spend_USD"].astype(float) * 1e6).astype("int64"),
        }
    )
    as_of = latest_as_of(float(events["time"].max()))
    end = math.ceil(as_of / DAY_S)
    events["day"] = (events["time"] // DAY_S).astype("int64")
    events["week"] = (events["day"] + 4) // 7
    events["back"] = (end - 1 - events["day"]) // 7
    whole = _Windows(events, end)
    columns = {f.name: _PANDAS[f.aggregation](whole, f.window_days) for f in FEATURES}
    return pd.DataFrame(columns, index=whole.index), as_of


class _Windows:
    """Groupbys by window, each made once."""

    def __init__(self, events: pd.DataFrame, end: int) -> None:
        self.end = end
        self.index = pd.Index(sorted(events["advertiser"].unique()))
        self._events = events
        self._windows: dict[int, Any] = {}
        self.all: Any = events.groupby("advertiser").agg(
            weeks=("week", "nunique"), first=("week", "min"), last=("week", "max"), day=("day", "max")
        )

    def events(self, days: int) -> pd.DataFrame:
        return self._events if days == LIFETIME else self._events[self._events["day"] >= self.end - days]

    def of(self, days: int) -> Any:
        if days not in self._windows:
            grouped = self.events(days).groupby("advertiser")["micros"]
            self._windows[days] = grouped.agg(["count", "sum", "mean", "min", "max"]).reindex(self.index)
        return self._windows[days]

    def weekly(self, days: int) -> Any:
        sums = self.events(days).groupby(["advertiser", "back"])["micros"].sum().unstack(fill_value=0)  # noqa: PD010
        return sums.reindex(index=self.index, columns=range(days // 7), fill_value=0)

    def distinct(self, days: int, column: str) -> Any:
        found = self.events(days).groupby("advertiser")[column].nunique()
        return found.reindex(self.index, fill_value=0)

    def daily(self, days: int) -> Any:
        sums = self.events(days).groupby(["advertiser", "day"])["micros"].sum().unstack(fill_value=0)  # noqa: PD010
        return sums.reindex(index=self.index, columns=range(self.end - days, self.end), fill_value=0)


def _trend(whole: _Windows, days: int) -> Any:
    recent, both = whole.of(days)["sum"].fillna(0), whole.of(2 * days)["sum"].fillna(0)
    return ((2 * recent - both) / both).where(both != 0)


def _slope(whole: _Windows, days: int) -> Any:
    sums = whole.weekly(days).to_numpy()[:, ::-1] / 1e6
    x = np.arange(days // 7) - (days // 7 - 1) / 2
    return pd.Series(sums @ x / (x @ x), whole.index)


def _volatility(whole: _Windows, days: int) -> Any:
    daily = whole.daily(days)
    return daily.std(axis=1, ddof=0) / daily.mean(axis=1).where(daily.sum(axis=1) != 0)


_PANDAS: dict[Aggregation, Any] = {
    Aggregation.COUNT: lambda w, days: w.of(days)["count"].fillna(0),
    Aggregation.SUM: lambda w, days: w.of(days)["sum"].fillna(0) / 1e6,
    Aggregation.MEAN: lambda w, days: w.of(days)["mean"] / 1e6,
    Aggregation.MIN: lambda w, days: w.of(days)["min"] / 1e6,
    Aggregation.MAX: lambda w, days: w.of(days)["max"] / 1e6,
    Aggregation.DISTINCT_CAMPAIGNS: lambda w, _: pd.Series(0.0, w.index),  # the file names none
    Aggregation.DAYS_SINCE_LAST: lambda w, _: w.end - 1 - w.all["day"],
    Aggregation.TREND_RATIO: _trend,
    Aggregation.TREND_SLOPE: _slope,
    Aggregation.VOLATILITY: _volatility,
    Aggregation.ACTIVE_DAY_SHARE: lambda w, days: w.distinct(days, "day") / days,
    Aggregation.ACTIVE_WEEKS: lambda w, days: w.distinct(days, "back"),
    Aggregation.CALENDAR_WEEKS: lambda w, _: w.all["weeks"],
    Aggregation.TENURE: lambda w, _: w.end - (7 * w.all["first"] - 4),
    Aggregation.WEEKLY_MEAN: lambda w, days: w.of(days)["sum"] / 1e6 / w.all["weeks"],
    Aggregation.MEAN_GAP: lambda w, _: ((w.all["last"] - w.all["first"]) / (w.all["weeks"] - 1)).where(
        w.all["weeks"] > 1
    ),
    Aggregation.GAP_RATIO: lambda w, _: (
        (w.end - 1 - w.all["day"]) / (7 * _PANDAS[Aggregation.MEAN_GAP](w, 0))
    ),
}


def run_send(settings: Settings, path: Path) -> int:
    """`send_file` from synchronous code."""
    return asyncio.run(send_file(settings, path))
