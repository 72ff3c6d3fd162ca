"""What a source means: a file, a dataset, a generator, or a format by name, ours or from outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import InputError, load
from traces.loading import file_of, is_generator, module_file_of

OUTSIDE = '''
from dataclasses import dataclass
from traces import checks
from traces.readers import Format, make_trace
from traces.trace import Trace
import numpy as np


@dataclass(frozen=True)
class Chats(Format):
    """Chat logs with times in minutes."""

    seconds: float = 60.0

    required = ("at", "asked", "answered")

    def read(self, table, reading):
        return make_trace(
            table,
            checks.tokens(table, "asked"),
            checks.tokens(table, "answered"),
            arrival=checks.times(table, "at"),
            arrival_column="at",
            per_second=1 / self.seconds,
        )


class Whole(Format):
    def read(self, table, reading):
        return make_trace(table, *(checks.tokens(table, name) for name in table.columns[1:3]))


class Broken(Format):
    def read(self, table, reading):
        return table.nothing


class Returns(Format):
    def read(self, table, reading):
        return [1, 2, 3]


@dataclass(frozen=True)
class Steps:
    """Outputs of rising length."""

    first: int = 1

    def generate(self, num_prompts, seed):
        lengths = np.arange(num_prompts) + self.first + seed
        return Trace("steps", np.arange(num_prompts), lengths, lengths)


class Few:
    def generate(self, num_prompts, seed):
        return Steps().generate(2, seed)


class Neither:
    pass
'''
CHATS = "at,asked,answered,mood\n10,4,5,good\n12,6,7,bad\n"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an importable module `my_traces`, in the working folder, beside `chats.csv`."""
    path = tmp_path / "my_traces.py"
    path.write_text(OUTSIDE, encoding="utf-8")
    (tmp_path / "chats.csv").write_text(CHATS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield path
    sys.modules.pop("my_traces", None)


def test_a_format_from_outside(mine: Path) -> None:
    trace = load("my_traces:Chats:file=chats.csv")
    assert (trace.name, trace.prompt_tokens.tolist()) == ("my_traces:Chats:file=chats.csv", [4, 6])
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [0.0, 120.0]
    assert trace.notes == ("columns not used: mood",)
    capped = load("my_traces:Chats:file=chats.csv,seconds=1", max_new_tokens=6)
    assert capped.arrival_s is not None and capped.arrival_s.tolist() == [0.0, 2.0]
    assert capped.output_tokens.tolist() == [5, 6]
    assert load("my_traces:Whole:file=chats.csv").output_tokens.tolist() == [5, 7]


def test_a_format_of_ours_by_name(mine: Path) -> None:
    both = "prompt_tokens,output_tokens,num_prefill_tokens,num_decode_tokens\n1,2,3,4\n"
    Path("both.csv").write_text(both, encoding="utf-8")
    with pytest.raises(InputError, match="fit 2 formats, seqsched and Vidur"):
        load("both.csv")
    assert load("Vidur:file=both.csv").prompt_tokens.tolist() == [3]
    assert load("seqsched:file=both.csv").prompt_tokens.tolist() == [1]
    with pytest.raises(InputError, match=r"both\.csv: columns TIMESTAMP.* missing .*\(format Azure needs"):
        load("Azure:file=both.csv")
    with pytest.raises(InputError, match=r"column prompt_tokens does not belong to format length-file"):
        Path("both.csv").write_text("L_t0.0,L_t0.3,L_t0.5,L_t0.7,prompt_tokens\n1,1,1,1,1\n")
        load("length-file:file=both.csv")


def test_a_generator_from_outside(mine: Path) -> None:
    trace = load("my_traces:Steps:first=3", num_prompts=4, seed=1)
    assert (trace.name, trace.output_tokens.tolist()) == ("my_traces:Steps:first=3", [4, 5, 6, 7])
    assert len(load("my_traces:Steps")) == 1000
    assert load("my_traces:Steps", max_new_tokens=7, num_prompts=9).output_tokens.max() == 7


def test_what_is_read_and_what_is_drawn(mine: Path) -> None:
    assert is_generator("my_traces:Steps") and is_generator("lognormal:output_sigma=0.5")
    assert not is_generator("my_traces:Chats:file=chats.csv") and not is_generator("chats.csv")
    assert file_of("my_traces:Steps") is None
    assert file_of("my_traces:Chats:file=chats.csv") == "chats.csv"
    assert file_of("Vidur:file=chats.csv") == "chats.csv"
    assert module_file_of("my_traces:Steps") == mine and module_file_of("chats.csv") is None


def test_a_file_with_a_colon_in_its_name_is_a_file(mine: Path) -> None:
    Path("my_traces:Steps").write_text("prompt_tokens,output_tokens\n1,2\n", encoding="utf-8")
    assert load("my_traces:Steps").output_tokens.tolist() == [2]
    assert load("./my_traces:Steps").output_tokens.tolist() == [2]


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("my_traces:Chats", "option file is required, as in trace my_traces:Chats:file=VALUE"),
        ("my_traces:Chats:file=none.csv", "none.csv: no such file"),
        ("my_traces:Chats:file=chats.csv,seconds=x", "trace my_traces:Chats: seconds: 'x' is not a number"),
        (
            "my_traces:Broken:file=chats.csv",
            "trace my_traces:Broken: read raised AttributeError: '_Csv' object has no attribute 'nothing' "
            "(my_traces.py, line 35)",
        ),
        ("my_traces:Returns:file=chats.csv", "trace my_traces:Returns: read returned list, not a Trace"),
        ("my_traces:Neither", "is no subclass of traces.readers.Format, nor has it generate()"),
        ("my_traces:Few", "trace my_traces:Few: generate returned 2 requests, not 1000"),
        ("my_traces:Stepps", "module 'my_traces' has no attribute 'Stepps'; did you mean Steps?"),
        ("no_such_module:Class", "trace 'no_such_module:Class': No module named 'no_such_module'"),
        ("nothing.csv", "nor some.module:Class"),
        ("Vidur:chats.csv", "trace 'Vidur:chats.csv': 'chats.csv' is not key=value"),
    ],
)
def test_bad_sources(source: str, line: str, mine: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(source)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_column_of_a_named_format(mine: Path) -> None:
    Path("chats.csv").write_text("at,asked\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load("my_traces:Chats:file=chats.csv")
    expected = "chats.csv: column answered is missing among 'at, asked' (format my_traces:Chats needs "
    assert str(caught.value) == f"{expected}at, asked, answered)"


@given(
    st.text(max_size=20) | st.from_regex(r"(fixed|Vidur|seqsched|my\.x):[a-z]{0,4}[:=,]?[a-z0-9=,:.]{0,9}")
)
def test_any_source_is_loaded_or_refused_in_one_line(source: str) -> None:
    try:
        trace = load(source, num_prompts=3)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert len(trace) and np.all(trace.output_tokens >= 1)


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("sharegpt:file=x.json", "ShareGPT"),
        ("Seqsched:file=x.csv", "seqsched"),
        ("sesions:users=2", "sessions"),
    ],
)
def test_a_misspelt_name_before_options_gets_a_hint(source: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"; did you mean {meant}\?$"):
        load(source)
