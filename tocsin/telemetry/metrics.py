"""Every metric of the platform: its name, type, labels, unit and meaning, in one place.

`GET /metrics` exports them and `docs/metrics.md` lists them, both from the table below. Values come from Redis, so that
any replica exports the same; counters grow since the beginning of the data, not of a process. Every label has a short,
closed set of values, or names a lane, a breaker or a version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import msgspec
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tocsin.telemetry.latency import BOUNDS, cumulate, total_ms


class Kind(StrEnum):
    """A metric's type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"  # always 1; the labels are the message


class MetricSpec(msgspec.Struct, frozen=True):
    """One metric as it is exported and documented."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    unit: str
    help: str


_C, _G, _H, _I = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM, Kind.INFO
_TABLE: tuple[tuple[str, Kind, str, str, str], ...] = (
    ("tocsin_up", _G, "", "", "1 when storage answered; when it is 0, nothing below is exported"),
    ("tocsin_build_info", _I, "version", "", "The version that runs"),
    # What came in and what became of it.
    ("tocsin_accepted_total", _C, "lane", "records", "Records accepted"),
    (
        "tocsin_notifications_total",
        _C,
        "lane outcome",
        "records",
        "Notifications that ended: delivered, suppressed, expired or dead; a replay that dies again is dead again",
    ),
    (
        "tocsin_activity_total",
        _C,
        "outcome",
        "records",
        "Activity by outcome: applied, or repeated and ignored",
    ),
    (
        "tocsin_refused_total",
        _C,
        "lane reason",
        "records",
        "Records refused with 429: memory, records, age or share",
    ),
    (
        "tocsin_delivery_latency_seconds",
        _H,
        "lane",
        "seconds",
        "From accepted to delivered, time put off on purpose left out; its sum is of bucket middles, within 5%",
    ),
    # What waits.
    ("tocsin_waiting_records", _G, "lane", "records", "Accepted and not ended, retries included"),
    ("tocsin_retrying_records", _G, "lane", "records", "Put off: to be tried again, or after quiet hours"),
    ("tocsin_blocks", _G, "lane state", "blocks", "Blocks in the lane: waiting, or pending with a consumer"),
    ("tocsin_oldest_age_seconds", _G, "lane", "seconds", "How long the oldest unsettled block has waited"),
    (
        "tocsin_consumers",
        _G,
        "lane",
        "members",
        "Consumers whose loop beat lately: p0 within 3 s, others 4 s",
    ),
    ("tocsin_supervisors", _G, "", "processes", "1 while the supervisor beats; it replaces hung consumers"),
    # What went wrong.
    ("tocsin_dead_letters", _G, "lane", "records", "Dead letters that nobody replayed or purged yet"),
    ("tocsin_dead_letters_replayed_total", _C, "lane", "records", "Dead letters put back into their lane"),
    ("tocsin_dead_letters_purged_total", _C, "lane", "records", "Dead letters deleted for good"),
    (
        "tocsin_quarantined_blocks_total",
        _C,
        "lane",
        "blocks",
        "Blocks that could not be read and were set aside",
    ),
    (
        "tocsin_faults_total",
        _C,
        "lane fault",
        "faults",
        "Faults survived, as processes report them every 5 s: one that is killed takes its last seconds along",
    ),
    # Storage.
    (
        "tocsin_storage_info",
        _I,
        "lane durability",
        "",
        "What a receipt of the lane promises: fsynced, everysec or memory",
    ),
    (
        "tocsin_storage_memory_used_bytes",
        _G,
        "lane",
        "bytes",
        "Memory used by the server that holds the lane",
    ),
    ("tocsin_storage_memory_max_bytes", _G, "lane", "bytes", "Its maxmemory; 0 is no limit"),
    # Breakers.
    ("tocsin_breaker_state", _G, "breaker state", "", "1 for the state it is in: closed, open or half_open"),
    ("tocsin_breaker_failures", _G, "breaker", "failures", "Failures in a row"),
    (
        "tocsin_breaker_transitions_total",
        _C,
        "breaker state",
        "transitions",
        "Times it became open, half_open (a probe started) or closed; begins again from 0 after a day unused",
    ),
    ("tocsin_breaker_last_opening_info", _I, "breaker reason", "", "Why it opened last"),
    # Features.
    ("tocsin_advertisers", _G, "", "advertisers", "Advertisers with a history"),
    (
        "tocsin_activity_invalid_total",
        _C,
        "reason",
        "records",
        "Activity refused with 422: late, future, the field that was wrong, record, or body (a whole request)",
    ),
    (
        "tocsin_feature_latency_seconds",
        _H,
        "",
        "seconds",
        "From accepted to servable, of every view: a shard writes all views in one step",
    ),
    (
        "tocsin_feature_freshness_seconds",
        _H,
        "",
        "seconds",
        "From event time to servable, senders' delay included, imports of the past not; buckets up to 15 minutes",
    ),
    (
        "tocsin_feature_lag_seconds",
        _G,
        "partition",
        "seconds",
        "How far what is servable lies behind what is accepted: the age of the partition's watermark",
    ),
    (
        "tocsin_feature_unfit_vectors_total",
        _C,
        "view",
        "vectors",
        "Vectors of other definitions that readers passed over and computed again",
    ),
    ("tocsin_feature_samples", _G, "", "vectors", "Served vectors kept for `tocsin features verify`"),
    (
        "tocsin_newest_event_timestamp_seconds",
        _G,
        "",
        "seconds",
        "The newest event time stored, epoch seconds",
    ),
    # The archive.
    ("tocsin_archive_waiting_records", _G, "", "records", "Events logged and not landed in the archive yet"),
    (
        "tocsin_archive_waiting_blocks",
        _G,
        "partition",
        "blocks",
        "Blocks of the event log not landed yet; beyond 100,000 in a partition the oldest are dropped",
    ),
    (
        "tocsin_archive_oldest_age_seconds",
        _G,
        "partition",
        "seconds",
        "How long the oldest block has waited to be landed",
    ),
    ("tocsin_archive_landed_total", _C, "", "records", "Events landed in the archive"),
    (
        "tocsin_archive_lost_total",
        _C,
        "",
        "records",
        "Events that left the log before they were landed; known once landing has caught up",
    ),
    (
        "tocsin_archive_last_landing_timestamp_seconds",
        _G,
        "",
        "seconds",
        "When events were landed last, epoch seconds",
    ),
)
METRICS: dict[str, MetricSpec] = {
    name: MetricSpec(name, kind, tuple(labels.split()), unit, text)
    for name, kind, labels, unit, text in _TABLE
}
UNITS = {"seconds", "bytes"}  # those that Prometheus names end in


class Page(Collector):
    """The values of one scrape; `generate_latest` of `prometheus_client` prints it."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def put(self, name: str, value: float, *labels: str) -> None:
        """One value of a counter or a gauge, its labels in the table's order.

        Raises:
            KeyError: the table has no such metric.
        """
        self._family(name, labels).add_metric(labels, value)

    def put_info(self, name: str, *labels: str) -> None:
        """One message of an info metric."""
        self._family(name, labels).add_metric([], dict(zip(METRICS[name].labels, labels, strict=True)))

    def put_histogram(self, name: str, counts: Mapping[int, int], *labels: str) -> None:
        """A histogram from counts by bucket of `tocsin.telemetry.latency`."""
        steps = [(label, float(n)) for label, n in zip(BOUNDS, cumulate(counts), strict=True)]
        total_s = total_ms(counts) / 1000
        self._family(name, labels).add_metric(
            labels, [*steps, ("+Inf", float(sum(counts.values())))], sum_value=total_s
        )

    def collect(self) -> Iterator[Metric]:
        """What was put, in the table's order."""
        return (self._families[name] for name in METRICS if name in self._families)

    def _family(self, name: str, labels: tuple[str, ...]) -> Any:
        spec = METRICS[name]
        if len(labels) != len(spec.labels):
            raise ValueError(f"{name} has the labels {spec.labels}, not {labels}")
        if name not in self._families:
            self._families[name] = _family(spec)
        return self._families[name]


def _family(spec: MetricSpec) -> Metric:
    unit = spec.unit if spec.unit in UNITS else ""
    if spec.kind is Kind.COUNTER:
        return CounterMetricFamily(spec.name, spec.help, labels=spec.labels)
    if spec.kind is Kind.HISTOGRAM:
        return HistogramMetricFamily(spec.name, spec.help, labels=spec.labels, unit=unit)
    if spec.kind is Kind.INFO:
        return InfoMetricFamily(spec.name.removesuffix("_info"), spec.help, labels=())
    return GaugeMetricFamily(spec.name, spec.help, labels=spec.labels, unit=unit)


def as_markdown() -> str:
    """The table for `docs/metrics.md`."""
    rows = ["| metric | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    for spec in METRICS.values():
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        rows.append(f"| `{spec.name}` | {spec.kind} | {labels} | {spec.unit} | {spec.help} |")
    return "\n".join(rows)
