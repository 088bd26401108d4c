from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from tocsin.wire.lanes import LaneName
from verification import plan
from verification.checker import check, place
from verification.facts import Arrival, Evidence, FaultKind, Final, Promise, Verdict, Window
from verification.files import Receipts, read_delivery_logs, read_provider_arrivals, read_receipts
from verification.plan import Order, requests, schedule
from verification.run import DEFAULT_NOTIFICATIONS, QUICK_NOTIFICATIONS, parse
from verification.servers import Provider

T = 1_800_000_000.0  # when the run began


def name(lane: str, number: int, *, at: float = T) -> str:
    return f"{lane}-0-{round(at * 1000)}-0-{number}"


def promise(lane: str, number: int, **changes: Any) -> Promise:
    made = Promise(name(lane, number), lane, "anna", f"0/{lane}/{number}", ("log",))
    return msgspec.structs.replace(made, **changes)


def arrival(of: Promise, at: float, **changes: Any) -> Arrival:
    made = Arrival(at, of.id, of.recipient, of.ref, "log", f"router-{of.lane}-0")
    return msgspec.structs.replace(made, **changes)


class World:
    """A run in which all went well; tests plant what did not."""

    def __init__(self) -> None:
        self.promises = [promise(lane, number) for lane in ("p0", "p1", "p2") for number in range(4)]
        self.arrivals = [arrival(one, T + 1 + number / 100) for number, one in enumerate(self.promises)]
        self.finals: dict[str, Final | None] = {
            one.id: Final("delivered", {"log": 1}) for one in self.promises
        }
        self.letters: set[str] = set()
        self.windows: list[Window] = []

    def verdict(self) -> Verdict:
        return check(
            Evidence(
                promises=self.promises,
                arrivals=self.arrivals,
                finals=self.finals,
                letters=frozenset(self.letters),
                letters_total=len(self.letters),
                windows=self.windows,
            )
        )

    def again(self, number: int = 0, after_s: float = 2.0, **changes: Any) -> None:
        """One more arrival of what had arrived."""
        self.arrivals.append(arrival(self.promises[number], self.arrivals[number].at + after_s, **changes))

    def fault(
        self, kind: FaultKind, start: float, end: float = 0.0, *, lane: str = "", member: str = ""
    ) -> None:
        ends = T + (end or start)
        self.windows.append(Window(kind=kind, start=T + start, end=ends, lane=lane, member=member))

    def by_webhook(self, *, tries: int, taken: tuple[bool, ...]) -> None:
        """The first one goes by webhook alone; the provider took these of its arrivals."""
        first = self.promises[0] = msgspec.structs.replace(self.promises[0], channels=("webhook",))
        posts = [
            arrival(first, T + 1 + 0.5 * number, channel="webhook", source="", ok=ok)
            for number, ok in enumerate(taken)
        ]
        self.arrivals = posts + self.arrivals[1:]
        self.finals[first.id] = Final("delivered", {"webhook": tries})


@pytest.fixture
def world() -> World:
    return World()


def test_a_run_in_which_all_went_well_is_good(world: World) -> None:
    verdict = world.verdict()
    assert verdict.good, verdict.problems
    assert (verdict.accepted, verdict.delivered, verdict.duplicates) == (12, 12, 0)


def test_a_run_in_which_nothing_was_accepted_proves_nothing() -> None:
    nothing = Evidence(promises=[], arrivals=[], finals={}, letters=frozenset(), letters_total=0, windows=[])
    assert not check(nothing).good


def test_every_end_is_counted_and_the_account_is_whole(world: World) -> None:
    ends = dict(zip([one.id for one in world.promises], ("suppressed", "expired", "dead"), strict=False))
    for number, (one, state) in enumerate(ends.items()):
        world.finals[one] = Final(state, {"log": int(state == "dead")})
        world.arrivals[number] = msgspec.structs.replace(world.arrivals[number], ok=False)
        if state == "dead":
            world.letters.add(one)
    world.arrivals = [
        found for found in world.arrivals if found.ok or world.finals[found.id] == Final("dead", {"log": 1})
    ]
    verdict = world.verdict()
    assert verdict.good, verdict.problems
    assert (verdict.delivered, verdict.suppressed, verdict.expired, verdict.dead) == (9, 1, 1, 1)
    assert verdict.accepted == 12


# --------------------------------------------------------------------------- planted losses


def drop_evidence(world: World) -> None:
    del world.arrivals[3]


def forget_the_id(world: World) -> None:
    world.finals[world.promises[3].id] = None


def never_ask(world: World) -> None:
    del world.finals[world.promises[3].id]


def stay_accepted(world: World) -> None:
    world.finals[world.promises[3].id] = Final("accepted", {})


def stay_retrying(world: World) -> None:
    world.finals[world.promises[3].id] = Final("retrying", {"log": 1})


def die_without_a_letter(world: World) -> None:
    world.finals[world.promises[3].id] = Final("dead", {"log": 1})


def miss_one_channel_of_two(world: World) -> None:
    world.promises[3] = msgspec.structs.replace(world.promises[3], channels=("log", "webhook"))


def only_fail(world: World) -> None:
    world.arrivals[3] = msgspec.structs.replace(world.arrivals[3], ok=False)


@pytest.mark.parametrize(
    "plant",
    [
        drop_evidence,
        forget_the_id,
        never_ask,
        stay_accepted,
        stay_retrying,
        die_without_a_letter,
        miss_one_channel_of_two,
        only_fail,
    ],
)
def test_a_planted_loss_is_found(world: World, plant: Callable[[World], None]) -> None:
    plant(world)
    verdict = world.verdict()
    assert verdict.lost == 1
    assert not verdict.good
    assert world.promises[3].id in " ".join(verdict.problems)


def test_a_dead_letter_nobody_can_account_for_is_found(world: World) -> None:
    world.letters.add(world.promises[0].id)
    assert world.verdict().contradictions == 2  # of this one, and of the number of dead letters
    assert not world.verdict().good


# --------------------------------------------------------------------------- planted duplicates


def test_a_duplicate_without_a_fault_is_an_error(world: World) -> None:
    world.again()
    verdict = world.verdict()
    assert (verdict.duplicates, verdict.unexplained_duplicates) == (1, 1)
    assert not verdict.good


@pytest.mark.parametrize(
    "kind", [FaultKind.ROUTER_KILL, FaultKind.STORAGE_KILL, FaultKind.STORAGE_PAUSE, FaultKind.CONNECTION_CUT]
)
def test_a_duplicate_around_a_fault_is_explained(world: World, kind: FaultKind) -> None:
    world.again(after_s=2.0)  # at 1.0 and 3.0
    world.fault(kind, 2.0)
    verdict = world.verdict()
    assert (verdict.duplicates, verdict.unexplained_duplicates) == (1, 0)
    assert verdict.good, verdict.problems


@pytest.mark.parametrize(("start", "end"), [(0.1, 0.9), (3.1, 4.0)])
def test_a_fault_before_the_delivery_or_after_its_repeat_explains_nothing(
    world: World, start: float, end: float
) -> None:
    world.again(after_s=2.0)
    world.fault(FaultKind.STORAGE_PAUSE, start, end)
    assert world.verdict().unexplained_duplicates == 1


@pytest.mark.parametrize("kind", [FaultKind.AOF_REWRITE, FaultKind.SENDER_KILL, FaultKind.PROVIDER_SLOW])
def test_other_faults_excuse_no_duplicate(world: World, kind: FaultKind) -> None:
    world.again()
    world.fault(kind, 0.5, 5.0)
    assert world.verdict().unexplained_duplicates == 1


@pytest.mark.parametrize(("lane", "member"), [("p1", ""), ("p0", "router-p0-1")])
def test_a_kill_excuses_only_what_that_router_did(world: World, lane: str, member: str) -> None:
    world.again()
    world.fault(FaultKind.ROUTER_KILL, 2.0, lane=lane, member=member)
    assert world.verdict().unexplained_duplicates == 1
    world.fault(FaultKind.ROUTER_KILL, 2.0, lane="p0", member="router-p0-0")
    assert world.verdict().unexplained_duplicates == 0


def test_one_fault_does_not_explain_two_repeats(world: World) -> None:
    world.again(after_s=2.0)
    world.again(after_s=4.0)
    world.fault(FaultKind.STORAGE_KILL, 1.5, 2.5)
    verdict = world.verdict()
    assert (verdict.duplicates, verdict.unexplained_duplicates) == (2, 1)


def test_tries_on_record_are_no_duplicates(world: World) -> None:
    world.by_webhook(tries=3, taken=(False, False, True))
    verdict = world.verdict()
    assert verdict.good, verdict.problems
    assert verdict.duplicates == 0


def test_a_provider_that_took_it_too_late_is_told_twice_and_that_is_on_record(world: World) -> None:
    world.by_webhook(tries=2, taken=(True, True))
    verdict = world.verdict()
    assert verdict.good, verdict.problems
    assert verdict.duplicates == 1


def test_more_posts_than_tries_on_record_need_a_fault(world: World) -> None:
    world.by_webhook(tries=1, taken=(True, True))
    assert world.verdict().unexplained_duplicates == 1


def test_what_was_delivered_and_then_expired_needs_a_fault(world: World) -> None:
    world.finals[world.promises[0].id] = Final("expired", {})
    assert world.verdict().unexplained_duplicates == 1
    world.fault(FaultKind.ROUTER_KILL, 2.0, lane="p0", member="router-p0-0")
    assert world.verdict().unexplained_duplicates == 0


# --------------------------------------------------------------------------- planted disorder


def swap(world: World) -> None:
    first, second = world.arrivals[4:6]
    world.arrivals[4:6] = [
        msgspec.structs.replace(second, at=first.at),
        msgspec.structs.replace(first, at=second.at),
    ]


def test_a_swapped_order_is_found(world: World) -> None:
    swap(world)
    verdict = world.verdict()
    assert verdict.order_violations == 1
    assert verdict.order_violations_by_lane == {"p1": 1}
    assert not verdict.good


def test_an_order_is_read_line_by_line_where_times_are_equal(world: World) -> None:
    world.arrivals = [msgspec.structs.replace(found, at=T + 1) for found in world.arrivals]
    assert world.verdict().order_violations == 0
    world.arrivals[4:6] = reversed(world.arrivals[4:6])
    assert world.verdict().order_violations == 1


def test_no_fault_excuses_a_lost_order(world: World) -> None:
    swap(world)
    world.fault(FaultKind.STORAGE_KILL, 0.5, 0.9)  # accepted at 0, first tried at 1
    verdict = world.verdict()
    assert verdict.order_violations == 1
    assert not verdict.good


def test_there_is_no_order_between_recipients_lanes_or_a_first_try_and_a_repeat(world: World) -> None:
    world.promises[4] = msgspec.structs.replace(world.promises[4], recipient="ben")
    world.arrivals[4] = msgspec.structs.replace(world.arrivals[4], recipient="ben", at=T + 60)
    world.arrivals[0:4] = [msgspec.structs.replace(found, at=found.at + 30) for found in world.arrivals[0:4]]
    world.again(5)
    assert world.verdict().order_violations == 0


def test_the_order_of_acceptance_goes_by_numbers_not_by_letters() -> None:
    assert place("p2-0-99-2-0") < place("p2-0-100-0-0") < place("p2-0-100-0-10") < place("p2-0-100-10-2")


# --------------------------------------------------------------------------- planted strangers and forgeries


def test_a_delivery_of_what_nobody_was_promised_is_found(world: World) -> None:
    world.arrivals.append(arrival(promise("p2", 77), T + 5))
    assert world.verdict().unaccounted == 1
    assert not world.verdict().good


def test_a_forged_receipt_is_lost_and_one_of_no_lane_is_forged(world: World) -> None:
    world.promises.append(promise("p2", 77))
    assert world.verdict().lost == 1
    world.promises[-1] = promise("p2", 77, id="receipt-of-mine")
    assert world.verdict().forged == 1
    world.promises[-1] = promise("p1", 77, id=name("p2", 77))
    assert world.verdict().forged == 1


def test_one_id_for_two_notifications_is_forged_unless_they_are_one_by_their_dedup_key(world: World) -> None:
    world.promises[0] = msgspec.structs.replace(world.promises[0], dedup_key="d")
    world.promises.append(msgspec.structs.replace(world.promises[0], ref="0/p0/9"))
    assert world.verdict().good
    world.promises[-1] = msgspec.structs.replace(world.promises[-1], dedup_key="")
    assert world.verdict().forged == 1


def test_a_receipt_that_a_repeated_request_got_again_counts_once(world: World) -> None:
    world.promises.append(world.promises[0])
    assert world.verdict().good
    assert world.verdict().accepted == 12


@pytest.mark.parametrize("wrong", [{"recipient": "eve"}, {"ref": "another"}])
def test_a_delivery_to_another_or_of_another_is_found(world: World, wrong: dict[str, str]) -> None:
    world.arrivals[3] = msgspec.structs.replace(world.arrivals[3], **wrong)
    assert world.verdict().misdelivered == 1
    assert not world.verdict().good


# --------------------------------------------------------------------------- files and plans


def line(number: int) -> bytes:
    content = {"at": "2026-01-01T00:00:00Z", "id": f"p2-0-1-0-{number}", "recipient": "r", "title": "t"}
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def test_delivery_logs_are_read_oldest_first_and_by_member(tmp_path: Path) -> None:
    (tmp_path / "router-p2-0.jsonl").write_bytes(line(3))
    (tmp_path / "router-p2-0.1.jsonl").write_bytes(line(2))
    (tmp_path / "router-p2-0.2.jsonl").write_bytes(line(1))
    arrivals, torn = read_delivery_logs(tmp_path)
    assert [found.id[-1] for found in arrivals] == ["1", "2", "3"]
    assert {found.source for found in arrivals} == {"router-p2-0"}
    assert torn == 0


def test_a_line_torn_by_a_kill_is_no_evidence_and_hides_none(tmp_path: Path) -> None:
    (tmp_path / "router-p2-0.jsonl").write_bytes(line(1) + line(2)[:40] + line(3) + line(4)[:30])
    arrivals, torn = read_delivery_logs(tmp_path)
    assert [found.id[-1] for found in arrivals] == ["1", "3"]
    assert torn == 2


def test_a_torn_receipt_is_cut_off_so_that_the_next_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    whole = msgspec.json.encode(Receipts("k1", [promise("p0", 1)])) + b"\n"
    path.write_bytes(whole + whole[:20])
    assert [found.key for found in read_receipts(path)] == ["k1"]
    assert path.read_bytes() == whole
    assert read_receipts(tmp_path / "none.jsonl") == []


ORDER = Order(
    seed=3,
    sender=1,
    notifications=2000,
    started_at=T,
    send_s=10.0,
    url="http://127.0.0.1:1",
    provider="http://127.0.0.1:2",
    receipts="",
)


def test_a_plan_is_the_same_every_time_and_has_its_number_of_records() -> None:
    found = requests(ORDER)
    assert found == requests(ORDER)
    assert found != requests(msgspec.structs.replace(ORDER, seed=4))
    records = [record for request in found for record in request.records]
    assert len(records) == 2000
    assert len({record.title for record in records}) == 2000
    assert len({request.key for request in found}) == len(found)
    assert {len(request.records) for request in found if request.records[0].type == "emergency"} == {1}
    assert all(request.due_s <= ORDER.send_s for request in found)
    assert {one for record in records for one in record.channels} == {"log", "webhook"}
    assert any(record.expires_at for record in records)
    assert {mix.lane for mix in plan.MIX} == {LaneName.P0, LaneName.P1, LaneName.P2}


def test_a_schedule_is_seeded_has_every_kind_and_leaves_quiet() -> None:
    found = schedule(3, rounds=2, send_s=60.0, routers=6, senders=2)
    assert found == schedule(3, rounds=2, send_s=60.0, routers=6, senders=2)
    assert found != schedule(4, rounds=2, send_s=60.0, routers=6, senders=2)
    assert {fault.kind for fault in found} == set(FaultKind)
    assert [fault.due_s for fault in found] == sorted(fault.due_s for fault in found)
    assert {fault.target for fault in found if fault.kind is FaultKind.ROUTER_KILL} <= set(range(6))


def test_arguments_have_defaults_and_a_fresh_seed() -> None:
    assert parse([]).notifications == DEFAULT_NOTIFICATIONS
    assert parse(["--quick"]).notifications == QUICK_NOTIFICATIONS
    assert parse(["--seed", "0", "--notifications", "5", "--keep"]).seed == 0
    assert len({parse([]).seed for _ in range(20)}) > 1


def test_a_number_of_notifications_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--notifications", "0"])
    assert ended.value.code == 2
    assert "--notifications" in capsys.readouterr().err


async def test_a_provider_notes_every_notification_of_a_call_before_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "provider.jsonl"
    provider = Provider(path)
    one = {"id": "p0-0-1-0-0", "recipient": "r", "title": "t", "severity": ""}
    many = {"notifications": [{**one, "id": "p2-0-1-0-0"}, {**one, "id": "p2-0-1-0-1"}]}
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=provider.app()), base_url="http://provider"
    ) as client:
        statuses = [(await client.post(f"/{plan.FINE}", json=one)).status_code]
        statuses.append((await client.post(f"/{plan.REFUSES}", json=many)).status_code)
        provider.behave(FaultKind.PROVIDER_FAIL)
        statuses.append((await client.post(f"/{plan.FINE}", json=one)).status_code)
    assert statuses == [200, 410, 500]
    arrivals = read_provider_arrivals(path)
    assert [(found.id, found.ok) for found in arrivals] == [
        ("p0-0-1-0-0", True),
        ("p2-0-1-0-0", False),
        ("p2-0-1-0-1", False),
        ("p0-0-1-0-0", False),
    ]
    assert {found.channel for found in arrivals} == {"webhook"}
