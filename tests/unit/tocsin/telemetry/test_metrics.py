"""The table of metrics, what a page prints from it, and the documents that repeat it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import parser
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import parser as openmetrics

from serve_deployments.operations import Operations
from tests.paths import ROOT
from tocsin.telemetry.latency import BOUNDS, MAX_BUCKET, bucket_of, cumulate, tally
from tocsin.telemetry.metrics import METRICS, Kind, Page, as_markdown
from tocsin.telemetry.reports import Fault, faults_of

read_text: Any = parser.text_string_to_metric_families  # untyped upstream


def full_page() -> Page:
    """Every metric once, a label's name for its value."""
    page = Page()
    for name, spec in METRICS.items():
        if spec.kind is Kind.INFO:
            page.put_info(name, *spec.labels)
        elif spec.kind is Kind.HISTOGRAM:
            page.put_histogram(name, {3: 2, 90: 5, MAX_BUCKET: 1}, *spec.labels)
        else:
            page.put(name, 7, *spec.labels)
    return page


def told(page: Page, accept: str = "") -> str:
    encode, _content_type = choose_encoder(accept)
    return encode(page).decode()


def test_names_and_labels_keep_the_conventions() -> None:
    for name, spec in METRICS.items():
        assert re.fullmatch(r"tocsin_[a-z0-9_]+", name)
        assert all(re.fullmatch(r"[a-z]+", label) for label in spec.labels)
        assert name.endswith("_total") == (spec.kind is Kind.COUNTER), name
        assert name.endswith("_info") == (spec.kind is Kind.INFO), name
        if spec.unit in {"seconds", "bytes"}:
            assert name.endswith("_" + spec.unit), name


def test_the_text_format_is_what_prometheus_reads() -> None:
    families = list(read_text(told(full_page())))
    samples = {sample.name: sample for family in families for sample in family.samples}
    for name, spec in METRICS.items():
        sample = samples[f"{name}_count" if spec.kind is Kind.HISTOGRAM else name]
        assert set(sample.labels) == set(spec.labels)
        assert sample.value == {Kind.INFO: 1, Kind.HISTOGRAM: 8}.get(spec.kind, 7)
    assert len(families) == len(METRICS)


def test_openmetrics_is_valid_too() -> None:
    text = told(full_page(), accept="application/openmetrics-text; version=1.0.0")
    read_openmetrics: Any = openmetrics.text_string_to_metric_families  # untyped upstream
    families = {family.name: family for family in read_openmetrics(text)}
    assert len(families) == len(METRICS)
    assert families["tocsin_delivery_latency_seconds"].unit == "seconds"


def test_an_unknown_metric_or_a_wrong_number_of_labels_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Page().put("tocsin_unheard_of", 1)
    with pytest.raises(ValueError, match="lane"):
        Page().put("tocsin_consumers", 1)


def test_the_histogram_is_cumulative_and_in_seconds() -> None:
    page = Page()
    latencies = {0.05: 1, 2.0: 10, 30.0: 5, 10_000_000.0: 1}  # ms
    page.put_histogram("tocsin_delivery_latency_seconds", tally(latencies), "p0")
    (family,) = page.collect()
    found = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert list(found.values()) == sorted(found.values())
    assert found["+Inf"] == 17
    for label, value in found.items():
        true = sum(number for ms, number in latencies.items() if ms / 1000 <= float(label))
        if not any(float(label) / 1.1 < ms / 1000 < float(label) * 1.1 for ms in latencies):
            assert value == (true if label != "+Inf" else 17), label
    (total,) = (s.value for s in family.samples if s.name.endswith("_sum"))
    below = 0.0001 + 10 * 0.002 + 5 * 0.03
    assert total - 1000 == pytest.approx(
        below, rel=0.05, abs=100
    )  # what is beyond the last bucket counts as it


def test_bounds_are_the_buckets_own() -> None:
    assert [float(label) for label in BOUNDS] == sorted({float(label) for label in BOUNDS})
    for step, label in enumerate(BOUNDS):
        below, above = float(label) * 1000 * 0.99, float(label) * 1000 * 1.01
        assert cumulate({bucket_of(below): 1})[step] == 1
        assert step == 0 or cumulate({bucket_of(above): 1})[step] == 0


def test_the_documented_table_is_the_one_in_code() -> None:
    document = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert as_markdown() in document, (
        "put the answer of tocsin.telemetry.metrics.as_markdown() into docs/metrics.md"
    )
    assert {fault.value for fault in Fault} == set(re.findall(r"^- `(\w+)`", document, re.MULTILINE))
    for name in set(re.findall(r"\btocsin_\w+", document.split("## What to watch")[1])):
        assert name.removesuffix("_bucket") in METRICS, name


def test_the_scrape_config_names_the_endpoint() -> None:
    config: dict[str, Any] = yaml.safe_load((ROOT / "ops" / "prometheus.yaml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] in {endpoint.path for endpoint in Operations.endpoints}
    assert job["authorization"]["type"] == "Bearer"
    assert len(job["static_configs"][0]["targets"]) == 1  # two would count everything twice


def test_faults_are_added_up_over_parts_that_count_them() -> None:
    class Part:
        def faults(self) -> dict[Fault, int]:
            return {Fault.STORAGE: 2}

    assert faults_of(Part(), object(), Part()) == Counter({Fault.STORAGE: 4})
