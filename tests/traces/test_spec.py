"""Lists of names in one text, and options of any type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from traces import InputError
from traces.spec import build, names_of, nearest


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


@dataclass(frozen=True)
class Odd:
    pair: tuple[int, ...] = (1, 2)
    table: dict[str, int] | None = None
    level: Literal[1, 2] = 1
    rate: float | None = None


@pytest.mark.parametrize(("key", "kind"), [("pair", "tuple"), ("table", "dict")])
def test_an_option_of_a_type_that_no_text_gives_is_refused(key: str, kind: str) -> None:
    with pytest.raises(
        InputError, match=rf"^tool odd: {key}: '3': an option of type {kind}.* cannot be read"
    ):
        build(Odd, {key: "3"}, "tool odd")


def test_a_literal_is_one_of_its_values_and_not_a_text() -> None:
    assert build(Odd, {"level": "2", "rate": "0.5"}, "tool odd") == Odd(level=2, rate=0.5)
    with pytest.raises(InputError, match="level: '3' must be one of 1, 2"):
        build(Odd, {"level": "3"}, "tool odd")


def test_a_type_that_does_not_exist_is_one_line() -> None:
    class Options:
        size: Nothing = 3  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InputError, match=r"^tool odd: the type of an option cannot be told: name 'Nothing'"):
        build(dataclass(Options), {}, "tool odd")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("qwen3-32b", "; did you mean Qwen/Qwen3-32B?"),
        ("AZURE-CONV-2032", "; did you mean azure-conv-2023?"),
        ("azure", "; did you mean azure-conv-2023 or azure-code-2023?"),
        ("qwen2.5-8b", "; did you mean qwen2.5-7b?"),
        ("az", ""),
        ("a100", "; did you mean a100-80gb?"),
        ("elsewhere", ""),
    ],
)
def test_the_nearest_name_is_spelt_alike_or_begins_so(name: str, meant: str) -> None:
    known = ["qwen2.5-7b", "Qwen/Qwen3-32B", "h100", "a100-80gb", "azure-conv-2023", "azure-code-2023"]
    assert nearest(name, known) == meant
