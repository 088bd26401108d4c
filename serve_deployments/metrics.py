"""One scrape: what storage knows of lanes, breakers and features, as the metrics of `tocsin.telemetry.metrics`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from importlib.metadata import version

from redis import exceptions as redis_errors

from features.definitions import VIEWS
from features.online.store import FeatureStore
from features.shard.event_log import read_backlog
from routing.channels import FailureReason
from routing.emergency.lookups import LookupReason
from routing.intake.admission import AdmissionReason
from serve_deployments.activity import REASONS
from serve_deployments.serving.gate import LaneSample, take_sample
from serve_deployments.serving.lane_set import LaneSet
from tocsin.actor_names import SUPERVISOR
from tocsin.clock import Clock
from tocsin.errors import TocsinError
from tocsin.keys import FeatureKeys, LaneKeys
from tocsin.resilience.pool_state import BreakerState, BreakerView, read_breakers
from tocsin.storage.connect import SERVE_TIMEOUT_S
from tocsin.streams.heartbeats import read_consumers
from tocsin.streams.lanes import Lane
from tocsin.streams.records import LaneDepth
from tocsin.telemetry.metrics import Page
from tocsin.telemetry.reports import REFUSED, Fault
from tocsin.wire.lanes import NOTIFICATION_LANES, LaneName

log = logging.getLogger(__name__)

BREAKER_REASONS = frozenset({*map(str, FailureReason), *map(str, LookupReason), "slow", "failed"})
OTHER = "other"


async def scrape(lanes: LaneSet, store: FeatureStore, namespace: str, clock: Clock) -> Page:
    """Everything at this moment; without an answer from storage, that it does not answer and nothing else."""
    page = Page()
    try:
        async with asyncio.timeout(SERVE_TIMEOUT_S * 2):
            await _put_all(page, lanes, store, namespace, clock)
    except (TocsinError, redis_errors.RedisError, OSError, TimeoutError) as error:
        log.warning("no metrics: storage does not answer: %s", str(error) or type(error).__name__)
        page = Page()  # half of the truth would look like a quiet platform
        page.put("tocsin_up", 0)
    else:
        page.put("tocsin_up", 1)
    page.put_info("tocsin_build_info", version("tocsin"))
    return page


async def _put_all(page: Page, lanes: LaneSet, store: FeatureStore, namespace: str, clock: Clock) -> None:
    for name, lane in lanes.lanes.items():
        page.put_info("tocsin_storage_info", name, await lanes.durability(name))
        await _put_lane(page, lane)
    page.put("tocsin_supervisors", len(await read_consumers(lanes.client, LaneKeys(namespace, SUPERVISOR))))
    for breaker in await read_breakers(lanes.client, namespace, clock.now()):
        _put_breaker(page, breaker)
    await _put_features(page, lanes.lanes[LaneName.ACTIVITY], store)
    await _put_archive(page, lanes.lanes[LaneName.ACTIVITY], store.keys)


async def _put_lane(page: Page, lane: Lane) -> None:
    sample, depth = await take_sample(lane), await lane.depth()
    async with lane.client.pipeline(transaction=False) as pipe:
        pipe.hgetall(lane.keys.counts)
        pipe.hgetall(lane.keys.latency)
        pipe.hgetall(lane.keys.reports)
        counts, latency, reports = await pipe.execute()
    page.put("tocsin_consumers", len(await read_consumers(lane.client, lane.keys)), lane.name)
    _put_waiting(page, lane.name, sample, depth)
    _put_counts(page, lane.name, _numbers(counts) | {"replayed": _numbers(reports).get("replayed", 0)})
    _put_reports(page, lane.name, _numbers(reports))
    if lane.name in NOTIFICATION_LANES:
        page.put("tocsin_waiting_records", sample.records, lane.name)
        buckets = {int(bucket): number for bucket, number in _numbers(latency).items()}
        page.put_histogram("tocsin_delivery_latency_seconds", buckets, lane.name)


def _put_waiting(page: Page, lane: str, sample: LaneSample, depth: LaneDepth) -> None:
    page.put("tocsin_blocks", max(depth.blocks - depth.pending, 0), lane, "waiting")
    page.put("tocsin_blocks", depth.pending, lane, "pending")
    page.put("tocsin_retrying_records", depth.retrying, lane)
    page.put("tocsin_oldest_age_seconds", max(sample.now_s - sample.oldest_s, 0.0), lane)
    page.put("tocsin_storage_memory_used_bytes", sample.memory.used, lane)
    page.put("tocsin_storage_memory_max_bytes", sample.memory.limit, lane)


def _put_counts(page: Page, lane: str, counts: Mapping[str, int]) -> None:
    page.put("tocsin_accepted_total", counts.get("accepted", 0), lane)
    page.put("tocsin_quarantined_blocks_total", counts.get("quarantined", 0), lane)
    if lane == LaneName.ACTIVITY:
        for outcome in ("applied", "repeated"):
            page.put("tocsin_activity_total", counts.get(outcome, 0), outcome)
        return
    for outcome in ("delivered", "suppressed", "expired"):
        page.put("tocsin_notifications_total", counts.get(outcome, 0), lane, outcome)
    # `dead` falls when a letter is replayed or purged; a counter must not.
    dead, replayed, purged = (counts.get(name, 0) for name in ("dead", "replayed", "purged"))
    page.put("tocsin_notifications_total", dead + replayed + purged, lane, "dead")
    page.put("tocsin_dead_letters", dead, lane)
    page.put("tocsin_dead_letters_replayed_total", replayed, lane)
    page.put("tocsin_dead_letters_purged_total", purged, lane)


def _put_reports(page: Page, lane: str, reports: Mapping[str, int]) -> None:
    for fault in Fault:
        page.put("tocsin_faults_total", reports.get(fault, 0), lane, fault)
    for reason in AdmissionReason:
        if reason:
            page.put("tocsin_refused_total", reports.get(f"{REFUSED}{reason}", 0), lane, reason)


async def _put_features(page: Page, lane: Lane, store: FeatureStore) -> None:
    keys, partitions = store.keys, range(lane.partitions)
    async with lane.client.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.mget([keys.watermark(partition) for partition in partitions])
        pipe.hgetall(lane.keys.latency)
        pipe.hgetall(keys.freshness)
        pipe.hgetall(keys.refused)
        pipe.xlen(keys.served)
        time, marks, latency, freshness, refused, samples = await pipe.execute()
    now_s = time[0] + time[1] / 1e6
    for partition, mark in zip(partitions, marks, strict=True):
        if mark is not None:
            page.put("tocsin_feature_lag_seconds", max(now_s - float(mark), 0.0), str(partition))
    for name, spans in (("latency", latency), ("freshness", freshness)):
        buckets = {int(bucket): number for bucket, number in _numbers(spans).items()}
        page.put_histogram(f"tocsin_feature_{name}_seconds", buckets)
    counts = _numbers(refused)
    for reason in REASONS:
        page.put("tocsin_activity_invalid_total", counts.get(reason, 0), reason)
    for view in VIEWS:
        page.put("tocsin_feature_unfit_vectors_total", counts.get(f"schema:{view.name}", 0), view.name)
    page.put("tocsin_feature_samples", samples)
    page.put("tocsin_advertisers", await store.count())
    data = await store.newest()
    if data is not None:
        page.put("tocsin_newest_event_timestamp_seconds", data.newest)


async def _put_archive(page: Page, lane: Lane, keys: FeatureKeys) -> None:
    found = await read_backlog(lane.client, keys, lane.partitions)
    page.put("tocsin_archive_waiting_records", found.waiting)
    for partition, blocks in found.blocks.items():
        page.put("tocsin_archive_waiting_blocks", blocks, str(partition))
        page.put("tocsin_archive_oldest_age_seconds", found.oldest_age_s[partition], str(partition))
    page.put("tocsin_archive_landed_total", found.landed)
    page.put("tocsin_archive_lost_total", found.lost)
    if found.landed_at is not None:
        page.put("tocsin_archive_last_landing_timestamp_seconds", found.landed_at)


def _put_breaker(page: Page, breaker: BreakerView) -> None:
    for state in BreakerState:
        page.put("tocsin_breaker_state", breaker.state is state, breaker.name, state)
    page.put("tocsin_breaker_failures", breaker.failures, breaker.name)
    for state, number in (
        (BreakerState.OPEN, breaker.opened),
        (BreakerState.HALF_OPEN, breaker.probes),
        (BreakerState.CLOSED, breaker.closed),
    ):
        page.put("tocsin_breaker_transitions_total", number, breaker.name, state)
    if breaker.opened_for:
        reason = breaker.opened_for if breaker.opened_for in BREAKER_REASONS else OTHER
        page.put_info("tocsin_breaker_last_opening_info", breaker.name, reason)


def _numbers(answer: Mapping[bytes, bytes]) -> dict[str, int]:
    return {field.decode(): int(number) for field, number in answer.items()}
