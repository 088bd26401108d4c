"""A test that may be looked at after every observation, as often as one likes, and stays valid.

The question: is the mean of values in [0, 1] above a limit? Bet against "no" with pretend money: each value x turns a
wealth of W into W (1 + b (x - limit)) for a bet b from 0 to 1/limit. If the mean is not above the limit, whatever
came before, the wealth is a nonnegative supermartingale that begins at 1, so the chance that it *ever* reaches 1/alpha
is at most alpha (Ville 1939). No assumption on the values' distribution, and none on when somebody looks.

Which bet is best depends on the unknown mean, so several are placed at once and their mean is the wealth: a mixture,
and a mixture of such processes is one. Fixed bets make the wealth a function of how often each value came, in any
order: counts are enough, and counts from many replicas simply add up.

Source: I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", Journal of the Royal
Statistical Society B 86 (2024), section 4 and appendix on mixtures; on peeking: R. Johari, P. Koomen, L. Pekelis,
D. Walsh, "Always valid inference", Operations Research 70 (2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

BETS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 7 / 8)  # of the largest that cannot lose everything


def log_wealth(values: Iterable[tuple[float, int]], limit: float) -> float:
    """The natural logarithm of the wealth after values that came so often each: evidence that the mean is above.

    Args:
        values: Pairs of a value from 0 to 1 and its count.
        limit: The mean that is still fine, above 0 and below 1.
    """
    found = [(value, count) for value, count in values if count]
    logs = [
        math.fsum(count * math.log1p(bet / limit * (value - limit)) for value, count in found) for bet in BETS
    ]
    most = max(logs)
    return most + math.log(math.fsum(math.exp(log - most) for log in logs) / len(logs))


def spent(alpha: float, epoch: int) -> float:
    """The share of `alpha` for a test that is begun again for the `epoch`-th time (from 1): all shares add up to it.

    A process that was healthy for long has lost its wealth and would notice a later change late; so it begins again.
    """
    return alpha * 6 / (math.pi**2 * epoch**2)
