"""`tocsin dlq` over a platform that is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import msgspec
import pytest
from typer.testing import CliRunner

from cli import dlq
from cli.app import app
from tocsin import Client
from tocsin.errors import InvalidRecordError

LETTER = {
    "id": "p0-3-1732430000000-0-17",
    "lane": "p0",
    "reason": "refused",
    "error": "webhook: the target answered 410 " + "because " * 40,
    "accepted_at": "2026-01-31T00:00:00Z",
    "failed_at": "2026-01-31T00:00:01Z",
    "attempt_count": 3,
    "attempts": [
        {"at": "2026-01-31T00:00:01Z", "channel": "webhook", "ok": False, "reason": "refused",
         "detail": "the target [bold]answered[/bold] 410", "duration_ms": 12.5}
    ],
    "notification": {"type": "emergency", "title": "[red]Smoke", "recipient": "home-7" * 20},
    "traceparent": "",
    "replays": 1,
}  # fmt: skip
Handler = Callable[[httpx2.Request], Any]


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Handler], list[Any]]]:
    """Answers by a function; returns the bodies that were asked."""

    def serve(handler: Handler) -> list[Any]:
        asked: list[Any] = []

        def handle(request: httpx2.Request) -> httpx2.Response:
            body = msgspec.json.decode(request.content) if request.content else dict(request.url.params)
            asked.append(body)
            answer = handler(request)
            if isinstance(answer, httpx2.Response):
                return answer
            return httpx2.Response(200, content=msgspec.json.encode(answer))

        transport = httpx2.MockTransport(handle)
        monkeypatch.setattr(dlq, "client_of", lambda _settings: Client(transport=transport, retries=0))
        return asked

    monkeypatch.setenv("COLUMNS", "80")
    return serve  # type: ignore[return-value]  # a fixture's value


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["dlq", *arguments])


def handled(*ids: str, remaining: int = 0, cursor: str = "", dry_run: bool = False) -> dict[str, Any]:
    return {
        "ids": ids, "gone": 0, "remaining": remaining, "scanned": len(ids), "cursor": cursor, "dry_run": dry_run,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 910), ("2m", 880), ("1970-01-01T00:10:00Z", 600), ("0d", 1000)]
)
def test_a_time_is_a_date_or_an_age(text: str, expected: float) -> None:
    assert dlq.moment(text, 1000.0) == datetime.fromtimestamp(expected, UTC)


@pytest.mark.parametrize("bad", ["", "yesterday", "h", "-5m", "2026-01-31T00:00:00", "99999999d", "²d"])
def test_what_is_no_time_is_refused(bad: str) -> None:
    with pytest.raises(InvalidRecordError):
        dlq.moment(bad, 1000.0)


def test_a_list_fits_a_terminal_and_says_how_to_go_on(platform: Callable[[Handler], list[Any]]) -> None:
    asked = platform(lambda _: {"total": 9, "items": [LETTER], "cursor": "1.0_p0-0-1-0-0"})
    shown = run("list", "--lane", "p0", "--text", "410", "--limit", "1")
    assert shown.exit_code == 0, shown.output
    assert asked == [{"limit": "1", "lane": "p0", "text": "410"}]
    assert LETTER["id"] in shown.output
    assert "[red]Smoke" not in shown.output.split("home-7")[0]
    assert "--cursor 1.0_p0-0-1-0-0" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80


def test_a_letter_is_shown_as_it_came_within_80_columns(platform: Callable[[Handler], list[Any]]) -> None:
    platform(lambda _: LETTER)
    shown = run("show", str(LETTER["id"]))
    assert shown.exit_code == 0, shown.output
    assert "[red]Smoke" in shown.output
    assert "3, 1 replays" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80
    machine = run("show", str(LETTER["id"]), "--json")
    assert msgspec.json.decode(machine.output)["id"] == LETTER["id"]


@pytest.mark.parametrize("command", ["replay", "purge"])
@pytest.mark.parametrize("arguments", [(), ("--all", "--lane", "p0"), ("--id", "x", "--all")])
def test_a_choice_has_to_be_made(
    platform: Callable[[Handler], list[Any]], command: str, arguments: tuple[str, ...]
) -> None:
    asked = platform(lambda _: handled())
    refused = run(command, *arguments)
    assert refused.exit_code == 2
    assert asked == []


def test_a_dry_run_names_what_would_be_replayed(platform: Callable[[Handler], list[Any]]) -> None:
    asked = platform(lambda _: handled(*(f"id-{n}" for n in range(12)), dry_run=True))
    shown = run("replay", "--lane", "p0", "--dry-run")
    assert asked[0]["dry_run"] is True
    assert "12 would be replayed" in shown.output
    assert "id-9\n" in shown.output
    assert "and 2 more" in shown.output


def test_a_replay_goes_on_from_cursor_to_cursor(platform: Callable[[Handler], list[Any]]) -> None:
    answers = iter([handled("a", "b", remaining=1, cursor="1.0_p0-0-1-0-0"), handled("c")])
    asked = platform(lambda _: next(answers))
    done = run("replay", "--reason", "refused", "--rate", "1", "--json")
    assert done.exit_code == 0, done.output
    assert [(one["limit"], one.get("cursor", "")) for one in asked] == [(2, ""), (2, "1.0_p0-0-1-0-0")]
    assert msgspec.json.decode(done.stdout)["ids"] == ["a", "b", "c"]


def test_ctrl_c_says_how_far_it_came(platform: Callable[[Handler], list[Any]]) -> None:
    answers = iter([handled("a", "b", remaining=9, cursor="1.0_p0-0-1-0-0")])

    def answer(_request: httpx2.Request) -> Any:
        found = next(answers, None)
        if found is None:
            raise KeyboardInterrupt
        return found

    platform(answer)
    stopped = run("replay", "--all", "--rate", "1")
    assert stopped.exit_code == dlq.EXIT_INTERRUPTED
    assert "2 replayed" in stopped.output


def test_letters_by_id_are_replayed_once_and_those_gone_are_counted(
    platform: Callable[[Handler], list[Any]],
) -> None:
    def answer(request: httpx2.Request) -> Any:
        if request.url.path.endswith("gone/replay"):
            return httpx2.Response(404, content=b'{"type": "x", "title": "x", "status": 404, "detail": "x"}')
        return {"id": "here", "lane": "p0", "replayed": True}

    asked = platform(answer)
    done = run("replay", "--id", "here", "--id", "gone", "--id", "here")
    assert len(asked) == 2
    assert "1 replayed, 1 already gone" in done.output


def test_a_purge_deletes_only_when_it_is_told_to(platform: Callable[[Handler], list[Any]]) -> None:
    asked = platform(lambda request: handled("a", dry_run=b"dry_run" in request.content))
    assert "add --yes" in run("purge", "--source", "shop").output
    assert "1 purged" in run("purge", "--source", "shop", "--yes").output
    assert [one.get("dry_run", False) for one in asked] == [True, False]
    assert [one["filter"] for one in asked] == [{"source": "shop"}] * 2
