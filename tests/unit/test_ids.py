"""Derived ids: stable for ever, and different for whatever differs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import derive_id

PARTS = st.lists(st.text(max_size=5) | st.integers(), max_size=4)


def test_an_id_never_changes() -> None:
    assert derive_id("submission", "unpaid:1") == "a0591cd61a1dabdda51f314791034315"


@given(parts=PARTS)
def test_an_id_has_32_hex_digits_and_is_repeatable(parts: list[str | int]) -> None:
    assert len(derive_id(*parts)) == 32
    assert int(derive_id(*parts), 16) >= 0
    assert derive_id(*parts) == derive_id(*parts)


@given(one=PARTS, other=PARTS)
def test_different_parts_have_different_ids(one: list[str | int], other: list[str | int]) -> None:
    assert (derive_id(*one) == derive_id(*other)) == ([str(p) for p in one] == [str(p) for p in other])


@pytest.mark.parametrize(("one", "other"), [(("ab", "c"), ("a", "bc")), (("a",), ("a", "")), ((), ("",))])
def test_where_a_part_ends_matters(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert derive_id(*one) != derive_id(*other)
