"""Every reader against every kind of bad input: one line that names file, row, column, value and bound."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from traces import InputError
from traces.formats import read

Put = Callable[..., Path]
Row = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """Two sound rows of one format in one container, and which columns hold what."""

    container: str
    rows: list[Row]
    required: tuple[str, ...]
    tokens: tuple[str, ...] = ()
    zero_allowed: tuple[str, ...] = ()
    times: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        return "line" if self.container == "jsonl" else "row"


OWN = [
    {
        "request_id": f"r{i}",
        "arrival_s": i / 2,
        "prompt_tokens": 10 + i,
        "output_tokens": 5,
        "predicted_tokens": 5,
        "priority": 0,
        "deadline_s": 9.5,
        "L_a": 4,
    }
    for i in range(2)
]
OWN_PARTS: dict[str, Any] = {
    "required": ("prompt_tokens", "output_tokens"),
    "tokens": ("prompt_tokens", "L_a"),
    "zero_allowed": ("output_tokens", "predicted_tokens"),
    "times": ("arrival_s", "deadline_s"),
}
LENGTH_COLUMNS = ("L_t0.0", "L_t0.3", "L_t0.5", "L_t0.7")
TURNS = [{"from": "human", "value": "a b"}, {"from": "gpt", "value": "c"}]

SAMPLES = {
    "own-csv": Sample("csv", OWN, **OWN_PARTS),
    "own-jsonl": Sample("jsonl", OWN, **OWN_PARTS),
    "own-parquet": Sample("parquet", OWN, **OWN_PARTS),
    "azure": Sample(
        "csv",
        [
            {"TIMESTAMP": f"2023-11-16 18:15:4{i}.68", "ContextTokens": 4, "GeneratedTokens": 3}
            for i in range(2)
        ],
        required=("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        tokens=("ContextTokens",),
        zero_allowed=("GeneratedTokens",),
    ),
    "burstgpt": Sample(
        "csv",
        [{"Timestamp": i, "Model": "GPT-4", "Request tokens": 4, "Response tokens": 3} for i in range(2)],
        required=("Timestamp", "Request tokens", "Response tokens"),
        tokens=("Request tokens",),
        zero_allowed=("Response tokens",),
        times=("Timestamp",),
    ),
    "mooncake": Sample(
        "jsonl",
        [{"timestamp": i * 3000, "input_length": 5, "output_length": 6, "hash_ids": [1]} for i in range(2)],
        required=("timestamp", "input_length", "output_length"),
        tokens=("input_length",),
        zero_allowed=("output_length",),
        times=("timestamp",),
    ),
    "vidur": Sample(
        "csv",
        [{"arrived_at": i / 4, "num_prefill_tokens": 3, "num_decode_tokens": 4} for i in range(2)],
        required=("num_prefill_tokens", "num_decode_tokens"),
        tokens=("num_prefill_tokens",),
        zero_allowed=("num_decode_tokens",),
        times=("arrived_at",),
    ),
    "length-file": Sample(
        "json",
        [{"id": str(i), **dict.fromkeys(LENGTH_COLUMNS, 7)} for i in range(2)],
        required=LENGTH_COLUMNS,
        tokens=LENGTH_COLUMNS,
    ),
    "sharegpt": Sample(
        "json", [{"id": str(i), "conversations": TURNS} for i in range(2)], required=("conversations",)
    ),
}
TEXT_CONTAINERS = [name for name, sample in SAMPLES.items() if sample.container != "parquet"]
of_every_reader = pytest.mark.parametrize("name", SAMPLES)


def render(container: str, rows: list[Row]) -> bytes:
    if container == "csv":
        table = [list(rows[0]), *([("" if v is None else str(v)) for v in row.values()] for row in rows)]
        return "".join(",".join(map(str, row)) + "\n" for row in table).encode()
    if container == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if container == "json":
        return json.dumps(rows, indent=2).encode()
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(pa.table({key: [row[key] for row in rows] for key in rows[0]}), sink)
    return sink.getvalue()


def refusal(path: Path) -> str:
    """The one line with which a file is refused; it names the file."""
    with pytest.raises(InputError) as caught:
        read(path, tokenizer=lambda text: len(text.split()))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 600
    return message.removeprefix(str(path))


def spoilt(sample: Sample, column: str, value: object) -> bytes:
    """The sample with `value` in its second row (a Parquet column has one type: there, text fills it)."""
    everywhere = sample.container == "parquet" and isinstance(value, str | bool)
    rows = [{**row, column: value} if everywhere or i == 1 else row for i, row in enumerate(sample.rows)]
    if sample.container == "parquet" and isinstance(value, float):
        rows[0] = {**rows[0], column: float(rows[0][column])}
    return render(sample.container, rows)


BAD_NUMBERS: dict[str, tuple[object, str]] = {
    "text": ("abc", r"'abc' is not a number \(a .*number from \S+ to \d+ is needed\)"),
    "none": (None, r"empty \(a .*number from \S+ to \d+ is needed\)"),
    "nan": (math.nan, r"(nan|'nan'|nan is not finite|'nan' is not a number).*(is needed)"),
    "inf": (math.inf, r"('?inf'?) is not (finite|a number) .* is needed"),
    "boolean": (True, r"'?True'? is not a number .* is needed"),
    "negative": (-5, r"-5(\.0)? is below [01]"),
    "absurd": (1e300, r"1e\+300 is above \d+"),
}


def number_cases() -> Iterator[Any]:
    for name, sample in SAMPLES.items():
        for column in (*sample.tokens, *sample.zero_allowed, *sample.times):
            for kind, (value, what) in BAD_NUMBERS.items():
                if column == "deadline_s" and kind == "none":
                    continue  # an empty one is none
                yield pytest.param(name, column, value, what, id=f"{name}-{column}-{kind}")
            if column not in sample.times:
                yield pytest.param(
                    name, column, 3.5, r"3.5 is not a whole number", id=f"{name}-{column}-half"
                )
            if column in sample.tokens:
                yield pytest.param(name, column, 0, "0 is below 1", id=f"{name}-{column}-zero")
                yield pytest.param(
                    name, column, 10_000_001, "10000001 is above 10000000", id=f"{name}-{column}-many"
                )
            if sample.container in ("json", "jsonl"):
                yield pytest.param(name, column, "5", "'5' is not a number", id=f"{name}-{column}-quoted")
                yield pytest.param(name, column, 10**400, r"\d+\.\.\. is above", id=f"{name}-{column}-huge")
                yield pytest.param(name, column, [1], r"\[1\] is not a number", id=f"{name}-{column}-list")


@pytest.mark.parametrize(("name", "column", "value", "what"), list(number_cases()))
def test_bad_number(put: Put, name: str, column: str, value: object, what: str) -> None:
    sample = SAMPLES[name]
    message = refusal(put(spoilt(sample, column, value)))
    row = 1 if sample.container == "parquet" and isinstance(value, str | bool) else 2
    assert re.fullmatch(rf", {sample.unit} {row}, {re.escape(column)}: ({what}).*", message), message


@pytest.mark.parametrize("text", ["1_000", "0x10", "1;5", "١", "--1", "1e", "tru", '"-"'])
def test_what_only_looks_like_a_number_in_csv(put: Put, text: str) -> None:
    message = refusal(put(f"prompt_tokens,output_tokens\n1,1\n{text},1\n"))
    assert message.startswith(", row 2, prompt_tokens: ")
    assert "is not a number" in message


@of_every_reader
def test_sound_samples_are_read(put: Put, name: str) -> None:
    assert len(read(put(render(SAMPLES[name].container, SAMPLES[name].rows)), tokenizer=len)) == 2


@pytest.mark.parametrize(("name", "column"), [(n, c) for n, s in SAMPLES.items() for c in s.required])
def test_missing_column(put: Put, name: str, column: str) -> None:
    sample = SAMPLES[name]
    message = refusal(
        put(render(sample.container, [{k: v for k, v in row.items() if k != column} for row in sample.rows]))
    )
    assert f"column {column} is missing" in message or (
        len(sample.required) == 1 and "are those of no known format" in message
    )


@of_every_reader
def test_directory(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path) == ": is a directory, a file is needed"


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.csv") == ": no such file"


def test_path_that_cannot_be_one() -> None:
    with pytest.raises(InputError, match="is not a path"):
        read("a\0b")


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")]
)
def test_unreadable_file(put: Put, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(path: Path) -> bytes:
        raise error

    path = put("prompt_tokens,output_tokens\n1,1\n")
    monkeypatch.setattr(Path, "read_bytes", fail)
    assert refusal(path) == f": cannot be read ({error.strerror})"


@pytest.mark.parametrize("content", [b"", b"\n \r\n\t\n", b"\xef\xbb\xbf"])
def test_empty_file(put: Put, content: bytes) -> None:
    assert refusal(put(content)) == ": is empty, at least 1 row is needed"


@of_every_reader
def test_no_rows(put: Put, name: str) -> None:
    sample = SAMPLES[name]
    if sample.container == "jsonl":
        pytest.skip("JSON lines without a line are an empty file")
    content = b"[]" if sample.container == "json" else render(sample.container, sample.rows[:1])
    if sample.container == "csv":
        content = content.split(b"\n")[0] + b"\n"
    if sample.container == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        sink = io.BytesIO()
        parquet.write_table(pa.table({"prompt_tokens": [1], "output_tokens": [1]}).slice(0, 0), sink)
        content = sink.getvalue()
    assert refusal(put(content)) == ": has 0 rows, at least 1 is needed"


@pytest.mark.parametrize("name", TEXT_CONTAINERS)
def test_not_utf8(put: Put, name: str) -> None:
    content = render(SAMPLES[name].container, SAMPLES[name].rows)
    at = content.rindex(b"\n")
    assert re.match(r", line \d+: byte 0xff at offset \d+ is not UTF-8", refusal(put(content[:at] + b"\xff")))
    assert "not UTF-8" in refusal(put(content.decode().encode("utf-16")))
    assert "byte 0x00 is not text" in refusal(put(content[:at] + b"\0" + content[at:]))


@of_every_reader
def test_truncated(put: Put, name: str) -> None:
    sample = SAMPLES[name]
    content = render(sample.container, sample.rows)
    end = content.rindex(b",") if sample.container == "csv" else len(content) - 4
    message = refusal(put(content[:end]))
    expected = {
        "csv": r", row 2: has \d+ fields, the header has \d+",
        "jsonl": r", line 2: broken JSON \(.+\)",
        "json": r", line \d+, column \d+: broken JSON \(.+\)",
        "parquet": r": not a readable Parquet file \(.+\)",
    }
    assert re.fullmatch(expected[sample.container], message), message


@pytest.mark.parametrize("name", [n for n, s in SAMPLES.items() if s.container == "csv"])
def test_ragged_rows(put: Put, name: str) -> None:
    lines = render("csv", SAMPLES[name].rows).decode().splitlines()
    fields = lines[0].count(",") + 1
    for change, found in (("{},9", fields + 1), ("{},", fields + 1), ('{}"a,b"', None), ("9", 1)):
        message = refusal(put("\n".join([lines[0], lines[1], change.format(lines[2])])))
        if found is None:
            assert "a quote inside a field that is not quoted" in message
        else:
            assert message == f", row 2: has {found} fields, the header has {fields}"
    assert "a quoted field is not closed" in refusal(put("\n".join([*lines, '"'])))


@pytest.mark.parametrize("name", [n for n, s in SAMPLES.items() if s.container in ("json", "jsonl")])
def test_json_that_is_not_objects(put: Put, name: str) -> None:
    sample = SAMPLES[name]
    if sample.container == "json":
        assert (
            refusal(put(json.dumps([sample.rows[0], [1]]))) == ", row 2: is a list, a JSON object is needed"
        )
        assert refusal(put(json.dumps([sample.rows[0], 5]))) == ", row 2: is int, a JSON object is needed"
        assert "no known format" in refusal(put(json.dumps({"rows": sample.rows})))
    else:
        assert (
            refusal(put(render("jsonl", sample.rows) + b"[1]\n"))
            == ", line 3: is a list, a JSON object is needed"
        )


@of_every_reader
def test_mixed_formats(put: Put, name: str) -> None:
    sample = SAMPLES[name]
    other = SAMPLES["mooncake" if sample.container != "jsonl" or name == "own-jsonl" else "own-jsonl"]
    if sample.container in ("json", "jsonl"):
        message = refusal(put(render(sample.container, [sample.rows[0], other.rows[0]])))
        assert re.match(
            rf", {sample.unit} 2: is in format \w+; that of {sample.unit} 1, .* is needed", message
        )
    else:
        extra = {key: value for key, value in other.rows[0].items() if key != "hash_ids"}
        both = [{**row, **extra} for row in sample.rows]
        message = refusal(put(render(sample.container, both)))
        assert re.fullmatch(r": the columns fit 2 formats, \w+ and \w+; exactly 1 is allowed", message)


def test_line_that_lacks_a_column_the_others_have(put: Put) -> None:
    rows = [{"prompt_tokens": 1, "output_tokens": 1}, {"prompt_tokens": 1}]
    assert refusal(put(render("jsonl", rows))).startswith(", line 2: column output_tokens is missing")
    rows = [{"prompt_tokens": 1, "output_tokens": 1, "priority": 1}, {"prompt_tokens": 1, "output_tokens": 1}]
    assert refusal(put(render("jsonl", rows))).startswith(", line 2, priority: empty (a whole number")


@pytest.mark.parametrize("name", ["own-csv", "own-jsonl", "own-parquet", "length-file", "sharegpt"])
def test_duplicate_and_empty_ids(put: Put, name: str) -> None:
    sample = SAMPLES[name]
    column = "request_id" if name.startswith("own") else "id"
    twice = [{**row, column: "x"} for row in sample.rows]
    what = rf", {sample.unit} 2, {column}: 'x' is already the id of {sample.unit} 1; ids must differ"
    assert refusal(put(render(sample.container, twice))) == what
    row = 1 if sample.container == "parquet" else 2
    assert f"{sample.unit} {row}, {column}: empty" in refusal(put(spoilt(sample, column, "")))
    if sample.container != "csv":
        assert "a missing value is not an id" in refusal(put(spoilt(sample, column, None)))


@pytest.mark.parametrize(
    "value", ["yesterday", "2023-13-40 00:00:00", "20231116", "12", "", "2023-11-16", "2023-11-16 18:15:46 x"]
)
def test_azure_dates(put: Put, value: str) -> None:
    message = refusal(put(spoilt(SAMPLES["azure"], "TIMESTAMP", value)))
    assert message.startswith(", row 2, TIMESTAMP: ")
    assert "is not a date and time such as" in message


def test_burstgpt_with_nothing_answered(put: Put) -> None:
    rows = [{**row, "Response tokens": 0} for row in SAMPLES["burstgpt"].rows]
    assert "at least 1 answered request is needed" in refusal(put(render("csv", rows)))


@pytest.mark.parametrize(
    ("conversation", "what"),
    [
        ("hello", "'hello' is not a list of turns"),
        (None, "a missing value is not a list of turns"),
        ([1], "1 is not a turn with text under from and value"),
        ([{"from": "human"}], "is not a turn"),
        ([{"from": "human", "value": 3}], "is not a turn"),
    ],
)
def test_sharegpt_structure(put: Put, conversation: object, what: str) -> None:
    message = refusal(put(spoilt(SAMPLES["sharegpt"], "conversations", conversation)))
    assert message.startswith(", row 2, conversations: ")
    assert what in message


def test_sharegpt_without_one_whole_conversation(put: Put) -> None:
    message = refusal(put(json.dumps([{"id": "1", "conversations": TURNS[:1]}])))
    assert "0 have both a human and a gpt turn, at least 1 is needed" in message
