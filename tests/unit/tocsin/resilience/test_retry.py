from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tocsin.resilience.retry import RetryPolicy

POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 20),
    base_s=st.floats(0.01, 10),
    cap_s=st.floats(10, 1000),
    factor=st.floats(1, 4),
)


@given(POLICIES)
def test_the_ceiling_never_shrinks_and_never_passes_the_cap(policy: RetryPolicy) -> None:
    ceilings = [policy.ceiling_s(n) for n in range(1, 40)]
    assert ceilings == sorted(ceilings)
    assert ceilings[0] == policy.base_s
    assert max(ceilings) <= policy.cap_s


@given(POLICIES, st.integers(1, 40), st.floats(0, 1))
def test_a_wait_is_between_half_its_ceiling_and_its_ceiling_while_tries_are_left(
    policy: RetryPolicy, made: int, draw: float
) -> None:
    delay_s = policy.delay_s(made, draw)
    if made >= policy.max_attempts:
        assert delay_s is None
    else:
        assert delay_s is not None
        assert policy.ceiling_s(made) / 2 <= delay_s <= policy.ceiling_s(made)


def test_a_policy_of_three_attempts_waits_twice() -> None:
    policy = RetryPolicy(max_attempts=3, base_s=1.0, cap_s=60.0)
    assert [policy.delay_s(made, 1.0) for made in (1, 2, 3)] == [1.0, 2.0, None]
    assert policy.delay_s(2, 0.0) == 1.0
