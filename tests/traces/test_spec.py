"""Lists of names in one text."""

from __future__ import annotations

import pytest

from traces import InputError
from traces.spec import names_of


def test_names_are_split_at_semicolons_and_stripped() -> None:
    assert names_of(" a ; b:k=v,j=w", "policies") == ["a", "b:k=v,j=w"]
    assert names_of(("a", "b "), "policies") == names_of("a;;b;", "policies") == ["a", "b"]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ("", "at least one is needed"),
        (" ; ", "at least one is needed"),
        ((), "at least one is needed"),
        ("a;b;a ", "'a' is given twice"),
    ],
)
def test_at_least_one_and_none_twice(texts: str, said: str) -> None:
    with pytest.raises(InputError, match=f"^policies: {said}"):
        names_of(texts, "policies")
