"""All dead letters at once: find them over the lanes, replay or purge many within bounds.

One call reads no more than `MAX_SCANNED` letters and handles no more than its limit; its answer says what
remains and where to go on. Letters go one by one, each atomically and at a rate, through the lane like everything
else: a p0 that arrives meanwhile waits for no replay, and a call cut short leaves nothing half done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from routing.ledger.dead_letters import DeadLetters, LetterCursor, Scan
from tocsin.clock import Clock
from tocsin.errors import NotFoundError
from tocsin.streams.records import Position
from tocsin.wire.dead_letters import DeadLetter, DeadLetterFilter, HandledLetters, PurgeRequest, ReplayRequest
from tocsin.wire.lanes import LaneName

MAX_SCANNED = 5000  # letters a call reads, over all lanes
MAX_REPLAY_S = 5.0  # a paced replay answers within this, well below a client's deadline


class SearchResult(msgspec.Struct, frozen=True):
    """Letters that match, newest first, and where the search ended."""

    letters: list[DeadLetter]
    scanned: int
    end: LetterCursor | None  # None: every letter was read


class DeadLetterSearch:
    """Finds, replays and purges dead letters over several lanes.

    Args:
        lanes: Each lane's letters.
        clock: Only its stopwatch is used, to keep the rate.
        sleep: How to wait, in seconds.
    """

    def __init__(
        self,
        lanes: Mapping[LaneName, DeadLetters],
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lanes = lanes
        self._clock = clock
        self._sleep = sleep

    def lane_of(self, notification_id: str) -> DeadLetters:
        """The letters of the lane an id names.

        Raises:
            InvalidRecordError: not an id of ours.
            NotFoundError: there is no such lane.
        """
        lane = Position.parse(notification_id).lane
        found = next((letters for name, letters in self._lanes.items() if name == lane), None)
        if found is None:
            raise NotFoundError(f"no dead letter {notification_id}: there is no lane {lane!r}")
        return found

    async def total(self, wanted: DeadLetterFilter) -> int:
        """How many letters the filter's lanes hold, whatever else it asks.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        return sum([await letters.total() for letters in self._lanes_of(wanted)])

    def _lanes_of(self, wanted: DeadLetterFilter) -> list[DeadLetters]:
        return [letters for name, letters in self._lanes.items() if wanted.lane in {None, name}]

    async def find(self, wanted: DeadLetterFilter, cursor: str, *, max_matches: int) -> SearchResult:
        """The newest letters that match, over the lanes, below a cursor.

        Args:
            wanted: Which are meant.
            cursor: Where an earlier look ended; empty: from the newest.
            max_matches: The most to return.

        Raises:
            InvalidRecordError: the cursor is none of ours.
            StorageUnavailableError: the server does not answer.
        """
        after = LetterCursor.parse(cursor) if cursor else None
        lanes = self._lanes_of(wanted)
        max_scanned = max(1, MAX_SCANNED // len(lanes))
        scans = [
            await letters.scan(wanted, after, max_matches=max_matches, max_scanned=max_scanned)
            for letters in lanes
        ]
        return merge(scans, max_matches)

    async def replay(self, request: ReplayRequest) -> HandledLetters:
        """Put the letters that match back into their lanes, at a rate; a dry run only names them.

        Raises:
            InvalidRecordError: the cursor is none of ours.
            StorageUnavailableError: the server does not answer; what moved has moved, run it again for the rest.
        """
        max_letters = min(request.limit, max(1, int(request.rate * MAX_REPLAY_S)))
        found = await self.find(request.filter, request.cursor, max_matches=MAX_SCANNED)
        chosen = found.letters[: request.limit if request.dry_run else max_letters]
        if request.dry_run:
            return _handled(found, chosen, [letter.id for letter in chosen], dry_run=True)
        moved: list[str] = []
        started = self._clock.monotonic()
        for number, letter in enumerate(sorted(chosen, key=_urgency), start=1):
            if await self.lane_of(letter.id).replay(letter):
                moved.append(letter.id)
            # The pause follows every letter, the last one too: requests in a row keep the rate.
            ahead_s = started + number / request.rate - self._clock.monotonic()
            if ahead_s > 0:
                await self._sleep(ahead_s)
        return _handled(found, chosen, moved)

    async def purge(self, request: PurgeRequest) -> HandledLetters:
        """Delete the letters that match, for good; a dry run only names them.

        Raises:
            InvalidRecordError: the cursor is none of ours.
            StorageUnavailableError: the server does not answer; run it again for the rest.
        """
        found = await self.find(request.filter, request.cursor, max_matches=MAX_SCANNED)
        chosen = found.letters[: request.limit]
        if request.dry_run:
            return _handled(found, chosen, [letter.id for letter in chosen], dry_run=True)
        purged = [letter.id for letter in chosen if await self.lane_of(letter.id).purge(letter.id)]
        return _handled(found, chosen, purged)


def merge(scans: Sequence[Scan], max_matches: int) -> SearchResult:
    """The scans of several lanes as one, newest first.

    A lane whose scan ended early may hold more right below its end; so nothing older than the newest such end is
    returned, or the next call would pass over it.
    """
    floor = max((scan.end for scan in scans if scan.end is not None), default=None)
    every = sorted((letter for scan in scans for letter in scan.letters), key=_cursor, reverse=True)
    letters = [letter for letter in every if floor is None or _cursor(letter) >= floor]
    end = floor
    if len(letters) > max_matches:
        letters = letters[:max_matches]
        end = _cursor(letters[-1])
    return SearchResult(letters, sum(scan.scanned for scan in scans), end)


def _cursor(letter: DeadLetter) -> LetterCursor:
    return LetterCursor(letter.failed_at, letter.id)


def _urgency(letter: DeadLetter) -> tuple[str, float]:
    """p0 first, and within a lane what died first."""
    return letter.lane, letter.failed_at


def _handled(
    found: SearchResult, chosen: Sequence[DeadLetter], ids: list[str], *, dry_run: bool = False
) -> HandledLetters:
    remaining = len(found.letters) - len(chosen)
    end = _cursor(chosen[-1]) if remaining and chosen else found.end
    return HandledLetters(
        ids=ids,
        gone=len(chosen) - len(ids),
        remaining=remaining,
        scanned=found.scanned,
        cursor=str(end) if end else "",
        dry_run=dry_run,
    )
