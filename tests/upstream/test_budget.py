from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.budget import RetryBudget


@pytest.mark.parametrize(
    ("share", "in_flight", "limit"),
    [(0.2, 0, 3), (0.2, 15, 3), (0.2, 20, 4), (0.2, 100, 20), (0.0, 1000, 3), (1.0, 10, 10)],
)
def test_the_budget_is_a_share_of_what_is_in_flight_and_at_least_three(
    share: float, in_flight: int, limit: int
) -> None:
    budget = RetryBudget(share, lambda: in_flight)

    spent = [budget.try_spend() for _ in range(limit + 5)]

    assert sum(spent) == budget.limit == limit
    assert spent == sorted(spent, reverse=True)


def test_what_is_given_back_can_be_spent_again() -> None:
    budget = RetryBudget(0.2, lambda: 0)
    assert [budget.try_spend() for _ in range(4)] == [True, True, True, False]

    budget.give_back()

    assert [budget.try_spend() for _ in range(2)] == [True, False]


def test_the_budget_shrinks_with_the_traffic() -> None:
    in_flight = 100
    budget = RetryBudget(0.2, lambda: in_flight)
    for _ in range(20):
        assert budget.try_spend()
    in_flight = 10

    for _ in range(17):
        budget.give_back()
        assert budget.spent >= 3
    assert not budget.try_spend()


@given(st.lists(st.booleans()), st.integers(0, 50))
def test_retries_under_way_never_exceed_the_limit(spends: list[bool], in_flight: int) -> None:
    budget = RetryBudget(0.2, lambda: in_flight)
    for spend in spends:
        if spend:
            budget.try_spend()
        else:
            budget.give_back()
        assert 0 <= budget.spent <= budget.limit
