"""Classes by name, from our tables and from outside; what is refused is refused in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.errors import InputError, raised_outside
from traces.registry import Registry

OUTSIDE = '''
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    size: int = 3

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size: {self.size} must be at least 1")
        if self.size > 9:
            {}["nothing"]


class Typed:
    """From outside."""

    Options = Options

    def __init__(self, where, **options):
        self.where, self.size = where, options.get("size")
        if where == "nowhere":
            1 / 0
        if where == "exit":
            raise SystemExit(0)


class Untyped:
    def __init__(self, where, **options):
        self.options = options


@dataclass(frozen=True)
class Fields:
    tokens: int
    charge: bool = False


number = 3
'''


@dataclass(frozen=True)
class Lengths:
    """Options."""

    length: int
    """How long it is,
    in its unit.
    """
    unit: str = "m"


class Ruler:
    """Measures lengths. Straight ones."""

    Options = Lengths

    def __init__(self, where: str, length: int, unit: str = "m") -> None:
        self.where, self.length, self.unit = where, length, unit


def gauge(where: str) -> str:
    """Measures
    anything.

    Slowly.
    """
    return f"a gauge in {where}"


TOOLS = Registry("tool", {"ruler": Ruler, "gauge": gauge})
SHAPES = Registry("shape", {}, fields_are_options=True)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an importable module `my_tools`."""
    path = tmp_path / "my_tools.py"
    path.write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_names_of_the_table() -> None:
    ruler = TOOLS.resolve("ruler:length=5,unit=km").build("the box")
    assert (ruler.where, ruler.length, ruler.unit) == ("the box", 5, "km")
    assert TOOLS.resolve(" gauge ").build("the box") == "a gauge in the box"
    assert TOOLS.names == ("ruler", "gauge")
    assert not TOOLS.is_outside("ruler:length") and TOOLS.module_file("ruler:length=5") is None


def test_what_is_said_of_them_comes_from_their_docstrings_and_options() -> None:
    assert TOOLS.describe("ruler") == "Measures lengths"
    assert TOOLS.describe("gauge") == "Measures anything"
    assert TOOLS.options_of("ruler") == {
        "length": (MISSING, "How long it is, in its unit."),
        "unit": ("m", ""),
    }
    assert TOOLS.options_of("gauge") == {}
    assert "NAME[:key=value,...]: ruler, gauge, or some.module:Class" in TOOLS.help("tools")


def test_classes_from_outside(mine: Path) -> None:
    typed = TOOLS.resolve("my_tools:Typed:size=7")
    assert typed.is_outside and typed.label == "tool my_tools:Typed"
    assert (typed.build("here").size, typed.build("here").where) == (7, "here")
    assert TOOLS.resolve("my_tools:Typed").build("here").size is None
    assert TOOLS.resolve("my_tools:Untyped:size=7").build("here").options == {"size": "7"}
    shape = SHAPES.resolve("my_tools:Fields:tokens=80,charge=on").build()
    assert (shape.tokens, shape.charge) == (80, True)
    with pytest.raises(InputError, match=r"options are fields of a dataclass; this is none \(size\)"):
        SHAPES.resolve("my_tools:Untyped:size=7")
    assert TOOLS.module_file("my_tools:Typed") == mine


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("rular", "tool 'rular' is not one of ruler, gauge, nor some.module:Class; did you mean ruler?"),
        ("saw", "tool 'saw' is not one of ruler, gauge, nor some.module:Class"),
        ("", "tool '': the name is empty; expected NAME[:key=value,...]"),
        (":Typed", "tool ':Typed': the name is empty; expected NAME[:key=value,...]"),
        ("ruler", "tool ruler: option length is required, as in tool ruler:length=VALUE"),
        ("ruler:length=x", "tool ruler: length: 'x' is not a whole number"),
        (
            "ruler:length=1,unti=m",
            "tool ruler: unknown option 'unti'; it has length, unit; did you mean unit?",
        ),
        ("no_such_tools:Class", "tool 'no_such_tools:Class': No module named 'no_such_tools'"),
        (
            "my_tools:Type",
            "tool 'my_tools:Type': module 'my_tools' has no attribute 'Type'; did you mean Typed?",
        ),
        ("my_tools:number", "tool 'my_tools:number': number is not a class"),
        ("my_tools:Typed:size", "tool 'Typed:size': 'size' is not key=value"),
        ("my_tools:Typed:size=0", "tool my_tools:Typed: size: 0 must be at least 1"),
        ("my_tools:Typed:size=10", "tool my_tools:Typed raised KeyError: 'nothing' (my_tools.py, line 13)"),
        ("my_tools:Typed:colour=red", "tool my_tools:Typed: unknown option 'colour'; it has size"),
    ],
)
def test_bad_specs(spec: str, line: str, mine: Path) -> None:
    with pytest.raises(InputError) as caught:
        TOOLS.resolve(spec)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("nowhere", "tool my_tools:Typed raised ZeroDivisionError: division by zero (my_tools.py, line 24)"),
        ("exit", "tool my_tools:Typed raised SystemExit: 0 (my_tools.py, line 26)"),
    ],
)
def test_what_a_class_from_outside_raises_is_one_line(where: str, line: str, mine: Path) -> None:
    with pytest.raises(InputError) as caught:
        TOOLS.resolve("my_tools:Typed").build(where)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("body", "ending"),
    [
        ("raise SystemExit(3)", "importing my_broken raised SystemExit: 3 (my_broken.py, line 1)"),
        ("x = 1\nraise ValueError('so\\nwhat')", "raised ValueError: so what (my_broken.py, line 2)"),
        ("x = 1\nraise RuntimeError", "raised RuntimeError (my_broken.py, line 2)"),
        ("import nothing_like_it", "tool 'my_broken:Class': No module named 'nothing_like_it'"),
        ("def f(:", "raised SyntaxError: invalid syntax (my_broken.py, line 1)"),
    ],
)
def test_what_a_module_raises_while_it_is_imported_is_one_line(body: str, ending: str, mine: Path) -> None:
    mine.with_name("my_broken.py").write_text(body, encoding="utf-8")
    for look in (TOOLS.resolve, TOOLS.module_file):
        with pytest.raises(InputError) as caught:
            look("my_broken:Class")
        assert str(caught.value).endswith(ending) and "\n" not in str(caught.value)


def test_an_interrupt_while_a_module_is_imported_goes_through(mine: Path) -> None:
    mine.with_name("my_broken.py").write_text("raise KeyboardInterrupt", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        TOOLS.resolve("my_broken:Class")


def test_an_error_of_ours_is_no_bad_input() -> None:
    def broken(where: str) -> None:
        {}["nothing"]

    with pytest.raises(KeyError):
        Registry("tool", {"broken": broken}).resolve("broken").build("here")


def test_the_line_named_is_the_innermost_outside_libraries() -> None:
    def decode() -> None:
        import json

        json.loads("{")

    try:
        decode()
    except ValueError as error:
        line = str(raised_outside("tool, use", error))
    assert re.match(r"tool, use raised JSONDecodeError: .* \(test_registry\.py, line \d+\)$", line)


@given(st.text(max_size=30) | st.from_regex(r"(ruler|gauge|my\.x):[a-z]{0,3}[:=,]?[a-z0-9=,:]{0,9}"))
def test_any_text_is_read_or_refused_in_one_line(spec: str) -> None:
    try:
        named = TOOLS.resolve(spec)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert named.label in ("tool ruler", "tool gauge") or named.is_outside


def test_what_a_module_prints_while_it_is_imported_is_not_in_our_output(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.with_name("my_greeter.py").write_text("print('hello')\nclass Class: pass", encoding="utf-8")
    TOOLS.resolve("my_greeter:Class")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "hello\n")


def test_a_value_of_an_option_is_told_from_a_name() -> None:
    @dataclass(frozen=True)
    class Cut:
        shape: Literal["round", "square"] = "round"
        size: int = 1

    saw = Registry("tool", {"gauge": gauge, "saw": Cut}, fields_are_options=True)
    with pytest.raises(
        InputError, match=r"'square' is not one of gauge, .*; did you mean saw:shape=square\?"
    ):
        saw.resolve("square")
    with pytest.raises(InputError, match=r"nor some.module:Class$"):
        saw.resolve("oval")
