from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metagen.search.pareto import front


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, ...]]) -> None:
    def beats(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    assert front(points) == [i for i, p in enumerate(points) if not any(beats(q, p) for q in points)]
