"""When to try again: exponential backoff with full jitter, a bounded number of times."""

from __future__ import annotations

import msgspec

RETRYABLE_STATUSES = frozenset({408, 425, 429})
"""HTTP statuses below 500 that say "not now": Request Timeout, Too Early, Too Many Requests."""

SHED_STATUSES = frozenset({429, 503})
"""HTTP statuses with which the platform sheds a request: nothing of it was carried out."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """`max_attempts` tries in all; the wait before the n-th retry is drawn from 0.5 to 1 times its ceiling.

    While no provider may be called, it may be parked for `max_parked_s` in all.
    """

    max_attempts: int
    base_s: float
    cap_s: float
    factor: float = 2.0
    max_parked_s: float = 3600.0

    def ceiling_s(self, attempts_made: int) -> float:
        """The longest wait after `attempts_made` failed tries (1 or more)."""
        return min(self.cap_s, self.base_s * self.factor ** (attempts_made - 1))

    def delay_s(self, attempts_made: int, draw: float) -> float | None:
        """The wait (s) before the next try, or None when no try is left.

        Args:
            attempts_made: Failed tries so far, 1 or more.
            draw: A number from 0 to 1 that spreads retries which failed together.
        """
        if attempts_made >= self.max_attempts:
            return None
        return self.ceiling_s(attempts_made) * (0.5 + 0.5 * draw)
