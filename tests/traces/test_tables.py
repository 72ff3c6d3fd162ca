"""Separators, decimal commas, dates of Parquet, and JSON however it is laid out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from traces import InputError
from traces.formats import read

Put = Callable[..., Path]
ROWS = [{"prompt_tokens": 10, "output_tokens": 5}, {"prompt_tokens": 20, "output_tokens": 6}]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_header_tells_the_separator(put: Put, separator: str, newline: str) -> None:
    lines = (
        ["prompt_tokens", "output_tokens", "arrival_s", "user"],
        ["10", "5", "0.5", '"a;b,c|d"'],
        ["20", "6", "1", "x"],
    )
    trace = read(put(newline.join(separator.join(line) for line in lines)))
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([10, 20], [5, 6])
    assert trace.user is not None and trace.user.tolist() == ["a;b,c|d", "x"]
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [0, 0.5]


def test_all_fields_may_be_quoted_the_first_of_the_header_too(put: Put) -> None:
    trace = read(put('"prompt_tokens","output_tokens","user"\n"10","5","a ""b"""\n"20","6","two\nlines"\n'))
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([10, 20], [5, 6])
    assert trace.user is not None and trace.user.tolist() == ['a "b"', "two\nlines"]


def test_a_stray_quote_is_named_by_its_line(put: Put) -> None:
    with pytest.raises(InputError, match=r"line 3: a quote inside a field that is not quoted$"):
        read(put('prompt_tokens,output_tokens,user\n10,5,x\n20,6,5" disk"\n'))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_decimal_commas_are_read_and_said(put: Put, separator: str) -> None:
    text = "prompt_tokens;output_tokens;arrival_s\n10;5;0,125\n20;6;1\n30;7;1234,5\n".replace(";", separator)
    trace = read(put(text))
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [0, 0.875, 1234.375]
    assert trace.notes == ("decimal commas read",)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("10;5;1,234\n20;6;2,345\n", "row 1, arrival_s: '1,234' is not a number"),
        ("10;5;1.234,5\n20;6;2,5\n", r"row 1, arrival_s: '1\.234,5' is not a number"),
        ("1.000;5;0,5\n20;6;1,5\n", r"row 1, prompt_tokens: '1\.000' has a point, where other numbers"),
        ("1,5;5;0\n20;6;1\n", r"row 1, prompt_tokens: 1\.5 is not a whole number"),
    ],
)
def test_what_a_comma_may_be_otherwise_is_refused(put: Put, rows: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(put("prompt_tokens;output_tokens;arrival_s\n" + rows))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("1.000;5\n2.000;6\n", r"row 1, prompt_tokens: '1\.000' may be 1000 or 1, since .*; write 1000 or 1"),
        ("900;5\n12.000;6\n", r"row 2, prompt_tokens: '12\.000' may be 12000 or 12, since the file is not"),
        ("10;1.024\n20;6\n", r"row 1, output_tokens: '1\.024' may be 1024 or 1\.024"),
    ],
)
def test_points_that_may_stand_between_thousands_are_refused(
    put: Put, separator: str, rows: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        read(put(("prompt_tokens;output_tokens\n" + rows).replace(";", separator)))


@pytest.mark.parametrize(
    "text",
    [
        "prompt_tokens;output_tokens;arrival_s\n1.000;5;0.5\n2.000;6;1.5\n",
        "prompt_tokens;output_tokens\n1.0;5\n2.0000;6\n",
        "prompt_tokens,output_tokens\n1.000,5\n2.000,6\n",
    ],
)
def test_points_are_decimal_where_the_file_tells(put: Put, text: str) -> None:
    assert read(put(text)).prompt_tokens.tolist() == [1, 2]


def test_times_in_thousandths_are_read_where_one_tells(put: Put) -> None:
    """Seconds with three decimals look like thousands from 1.000 to 999.999."""
    head = "prompt_tokens;output_tokens;arrival_s\n10;5;1.500\n20;6;2.750\n"
    with pytest.raises(InputError, match=r"row 1, arrival_s: '1\.500' may be 1500 or 1\.5"):
        read(put(head))
    trace = read(put(head + "30;7;1000.250\n"))
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [0, 1.25, 998.75]


def test_dates_of_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pd = pytest.importorskip("pandas")
    from pyarrow import parquet

    for unit, zone in itertools.product(("ms", "us", "ns"), (None, "America/New_York")):
        when = pd.to_datetime(["2023-11-16 18:15:46.680", "2023-11-16 18:15:50.995"]).tz_localize(zone)
        columns = {"ContextTokens": [374, 396], "GeneratedTokens": [44, 109]}
        column = pa.array(when.astype(object).to_list(), pa.timestamp(unit, zone))
        parquet.write_table(pa.table({"TIMESTAMP": column, **columns}), tmp_path / "t.parquet")
        trace = read(tmp_path / "t.parquet")
        assert trace.arrival_s is not None and trace.arrival_s[1] == pytest.approx(4.315, abs=1e-9)


LAYOUTS = {
    "lines": "\n".join(map(json.dumps, ROWS)),
    "list": json.dumps(ROWS),
    "indented list": json.dumps(ROWS, indent=4),
    "indented objects": "\n".join(json.dumps(row, indent=2) for row in ROWS) + "\n",
    "objects on one line": " ".join(json.dumps(row, indent=1) for row in ROWS),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_json_is_read_however_it_is_laid_out(put: Put, layout: str) -> None:
    assert read(put(LAYOUTS[layout])).output_tokens.tolist() == [5, 6]


def test_one_object_may_be_one_request(put: Put) -> None:
    assert read(put(json.dumps(ROWS[0], indent=2))).output_tokens.tolist() == [5]


def test_one_object_that_is_no_request_is_called_that(put: Put) -> None:
    said = (
        r"is one JSON object, with the keys a, runs, and in no known format; requests are needed, as a list"
    )
    with pytest.raises(InputError, match=said + r" of objects \(its runs is one\) or as JSON lines"):
        read(put(json.dumps({"a": 1, "runs": ROWS}, indent=2)))


def test_broken_json_is_named_where_it_breaks(put: Put) -> None:
    with pytest.raises(InputError, match=r"line 3, column \d+: broken JSON"):
        read(put('{\n "prompt_tokens": 1,\n "output_tokens" 2\n}'))
    with pytest.raises(InputError, match="line 2: broken JSON"):
        read(put(LAYOUTS["lines"][:-3]))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "request_id,prompt_tokens,completion_tokens",
            "output_tokens is missing; completion_tokens: is",
        ),
        (
            "input_tokens,Completion-Tokens",
            "no known format; input_tokens: is that prompt_tokens[?]; Completion-Tokens: is",
        ),
        ("isl,osl", "no known format; isl: is that prompt_tokens[?]; osl: is that output_tokens[?]"),
        (
            "Prompt_Tokens,output_token",
            r"Prompt_Tokens: is that prompt_tokens\?; output_token: is",
        ),
        ("colour,size", "no known format; give it as"),
    ],
)
def test_a_column_of_another_name_is_pointed_at(put: Put, header: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(put(header + "\n" + ",".join("1" * len(header.split(","))) + "\n"))


def test_a_column_without_a_name_is_called_that(put: Put) -> None:
    """Pandas writes the index of a frame so."""
    trace = read(put(",arrival_s,prompt_tokens,output_tokens\n0,0,100,20\n1,1,200,30\n"))
    assert trace.notes == ("columns not used: one without a name",)


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(put: Put, order: str) -> None:
    text = "\ufeffprompt_tokens,output_tokens\n1,2\n"
    with pytest.raises(InputError, match="is UTF-16 text, not UTF-8: PowerShell writes such files"):
        read(put(text.encode(order)))


def test_a_key_that_stands_twice_is_refused(put: Put) -> None:
    line = '{"prompt_tokens": 1, "output_tokens": 3, "x": {"a": 1, "b": 2}, "output_tokens": 30}'
    with pytest.raises(InputError, match="line 1: key output_tokens appears 2 times, 1 is allowed"):
        read(put(line + "\n"))
    assert len(read(put(line.replace('"output_tokens": 3,', "") + "\n"))) == 1


@pytest.mark.parametrize(
    "first", ["0.5,100,20", "2025-01-05 10:00:00.5,100,20", "0,0,,1e3", "1736071200;100;20"]
)
def test_a_table_without_names_is_called_that(put: Put, first: str) -> None:
    with pytest.raises(
        InputError, match=r"the first line, .*, holds values, where the names of the columns are"
    ):
        read(put(first + "\n" + first + "\n"))
