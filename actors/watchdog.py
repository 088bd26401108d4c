"""When a pool member is hung: pure, from its heartbeats.

    unknown ──a heartbeat──► alive ──none for `stopped_s` and its process is stopped, or none for `hung_s`──► hung
                               ▲  └──another heartbeat──┘                                                      │
                               └────────────── another process beats under its name ◄──────── replaced ────────┘

Silence counts only while the watcher itself looks on time and gets answers. After a pause of the machine, of the
watcher or of storage everybody starts afresh.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tocsin.wire.lanes import LaneName

LOOK_S = 0.4
MAX_GAP_S = 1.2  # between two looks: beyond it the watcher was held up itself


class HungPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long a member may be silent (s)."""

    stopped_s: float  # where its process is stopped: that does not go on by itself
    hung_s: float  # where it runs: it may only be slow


# A p0 waits for nothing; the others start when its routers are up again, as all need the same cores.
HUNG: Mapping[LaneName, HungPolicy] = {
    LaneName.P0: HungPolicy(stopped_s=1.5, hung_s=5.0),
    LaneName.P1: HungPolicy(stopped_s=6.0, hung_s=10.0),
    LaneName.P2: HungPolicy(stopped_s=6.0, hung_s=10.0),
    LaneName.ACTIVITY: HungPolicy(stopped_s=6.0, hung_s=10.0),
}


class Sighting(msgspec.Struct, frozen=True):
    """One member at one look: which process holds its name, and the time of its last heartbeat (None: lapsed)."""

    token: str
    beat: float | None


class Watchdog:
    """Remembers when each member was last seen to move."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Sighting, float]] = {}
        self._replaced: dict[str, str] = {}  # the token of a process that was ended, by its name
        self._looked_at = float("-inf")

    def look(self, members: Mapping[str, Sighting], now: float) -> dict[str, float]:
        """How long each member has been silent (s); those that were replaced and are not back are left out.

        Args:
            members: As storage holds them now.
            now: A stopwatch's reading (s).
        """
        if now - self._looked_at > MAX_GAP_S:
            self._seen.clear()
        self._looked_at = now
        silent: dict[str, float] = {}
        for name, sighting in members.items():
            if self._replaced.get(name) == sighting.token:
                continue
            self._replaced.pop(name, None)
            before, since = self._seen.get(name, (sighting, now))
            moved = before.token != sighting.token or sighting.beat not in {before.beat, None}
            self._seen[name] = (sighting, now if moved else since)
            silent[name] = now - self._seen[name][1]
        for name in set(self._seen) - set(members):
            del self._seen[name]
        return silent

    def replaced(self, name: str, token: str) -> None:
        """Watch a member again only when another process has its name."""
        self._replaced[name] = token
        self._seen.pop(name, None)


def is_hung(silent_s: float, policy: HungPolicy, *, stopped: bool) -> bool:
    """Whether a member that was silent for so long has to be replaced."""
    return silent_s >= (policy.stopped_s if stopped else policy.hung_s)
