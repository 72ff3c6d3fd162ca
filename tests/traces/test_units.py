"""The unit of a column of times: read from its name, its format or its values, or refused; never guessed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traces import InputError, load
from traces.formats import read
from traces.units import PER_SECOND, Unit, arrival_column, rate_text, span_text, unit_in_name, without_unit

Put = Callable[..., Path]
FOUR = (0.0, 20.5, 41.0, 61.1)
EPOCH_S = 1_760_000_000


def own(column: str, *times: object) -> str:
    return "".join([f"prompt_tokens,output_tokens,{column}\n", *(f"9,5,{t}\n" for t in times)])


def mooncake(*times: float, **more: object) -> str:
    rows = ({"timestamp": t, "input_length": 9, "output_length": 5, **more} for t in times)
    return "".join(json.dumps(row) + "\n" for row in rows)


def span(path: Path, time_unit: str | None = None) -> float:
    """Seconds from the first arrival to the last."""
    trace = read(path, time_unit=time_unit)
    assert trace.arrival_s is not None
    return float(trace.arrival_s[-1])


@pytest.mark.parametrize(
    ("name", "unit", "rest"),
    [
        ("arrival_s", "s", "arrival"),
        ("arrival_ms", "ms", "arrival"),
        ("Arrival (us)", "us", "arrival"),
        ("arrival_time_ns", "ns", "arrival_time"),
        ("timestamp_seconds", "s", "timestamp"),
        ("startTimeMs", "ms", "start_time"),
        ("timestamp", None, "timestamp"),
        ("requests", None, "requests"),
        ("ts", None, "ts"),
        ("hash_ids", None, "hash_ids"),
    ],
)
def test_a_name_may_end_with_a_unit(name: str, unit: str | None, rest: str) -> None:
    assert (unit_in_name(name), without_unit(name)) == (unit, rest)


def test_one_column_holds_the_arrivals() -> None:
    assert arrival_column(("timestamp", "arrival_ms", "prompt_tokens")) == "arrival_ms"
    assert arrival_column(("arrival_time", "arrival_s")) == "arrival_s"
    assert arrival_column(("time_stamp", "output_tokens")) == "time_stamp"
    assert arrival_column(("prompt_tokens", "end_time", "ttft_ms")) is None


@pytest.mark.parametrize("unit", PER_SECOND)
def test_a_unit_in_the_name_is_taken(put: Put, unit: Unit) -> None:
    ticks = [round(second * PER_SECOND[unit]) for second in (3, 5, 9)]
    assert span(put(own(f"arrival_{unit}", *ticks))) == 6.0


@pytest.mark.parametrize("unit", PER_SECOND)
def test_dates_in_disguise_give_their_unit_away(put: Put, unit: Unit) -> None:
    ticks = [int((EPOCH_S + second) * PER_SECOND[unit]) for second in (0, 5, 9)]
    assert span(put(own("timestamp", *ticks))) == pytest.approx(9, abs=1e-6)
    assert span(put(mooncake(*ticks))) == pytest.approx(9, abs=1e-6)
    path = put(own("arrival_s", *ticks))
    if unit == "s":
        assert span(path) == 9
    else:
        with pytest.raises(InputError, match=rf"row 1, arrival_s: \d+ is a date .*--time-unit {unit} reads"):
            read(path)
        assert span(path, unit) == pytest.approx(9, abs=1e-6)


def test_dates_are_read_under_a_name_that_does_not_ask_for_seconds(put: Put) -> None:
    dates = ("2024-11-03T01:59:59-04:00", "2024-11-03T01:00:01-05:00", "2024-11-03 06:00:04.5Z")
    assert span(put(own("timestamp", *dates))) == 5.5
    with pytest.raises(InputError, match=r"row 1, arrival_s: '2024.* is not a number, but a date and time"):
        read(put(own("arrival_s", *dates)))
    with pytest.raises(InputError, match=r"time_unit: ms is of no use for timestamp of .*, which holds"):
        read(put(own("timestamp", *dates)), time_unit="ms")


def test_mooncakes_columns_are_in_seconds_beside_those_of_a_conversation(put: Put) -> None:
    assert span(put(mooncake(*FOUR, parent_chat_id=-1, turn=1, hash_ids=[1]))) == pytest.approx(61.1)
    assert span(put(mooncake(0, 20, 40, 61, turn=1))) == 61


def test_mooncakes_columns_are_in_milliseconds_where_the_hashes_say_so(put: Put) -> None:
    assert span(put(mooncake(0, 20, 40, 61, hash_ids=[1]))) == pytest.approx(0.061)
    assert span(put(mooncake(0, 1500, 3000))) == 3


@pytest.mark.parametrize("times", [FOUR, (0, 20, 40, 61)])
def test_mooncakes_columns_alone_may_be_in_either_and_are_refused(put: Put, times: tuple[float, ...]) -> None:
    path = put(mooncake(*times))
    said = (
        r"timestamp: the unit of its times is not clear \(.*seconds: 0\.049 requests/s.*--time-unit .* says"
    )
    with pytest.raises(InputError, match=said):
        read(path)
    assert span(path, "s") == pytest.approx(times[-1])
    assert span(path, "ms") == pytest.approx(times[-1] / 1e3)


def test_fractions_at_an_ordinary_rate_are_seconds(put: Put) -> None:
    assert span(put(mooncake(0.0, 0.4, 1.3, 2.5))) == 2.5


def test_a_habit_that_makes_an_absurd_rate_is_not_followed(put: Put) -> None:
    rows = "".join(f"{9000 * i},4,3\n" for i in range(40))
    path = put("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows)
    with pytest.raises(InputError, match=r"arrived_at: the unit .* \(seconds: 0\.00011 .*--time-unit"):
        read(path)
    assert span(path, "ms") == pytest.approx(9 * 39)


def test_a_name_is_believed_and_an_odd_rate_said(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "traces")
    assert span(put(own("arrival_s", *range(0, 2_000_000, 1000)))) == 1_999_000
    assert "arrival_s read as seconds by its name, where milliseconds would make 1 requests/s" in caplog.text


@pytest.mark.parametrize(
    ("unit", "times", "said"),
    [
        ("s", (0, 100, 200), ""),  # 0.01 requests/s, and 1000: as few and as many as are ordinary
        ("ms", (0, 1, 2), ""),
        ("ms", (0, 0.5, 1), ", where seconds would make 2 requests/s"),
        ("s", (7, 7, 7), ""),
    ],
)
def test_an_ordinary_rate_and_arrivals_all_at_once_leave_no_doubt_of_a_name(
    put: Put, unit: Unit, times: tuple[float, ...], said: str
) -> None:
    words = {"s": "seconds", "ms": "milliseconds"}[unit]
    expected = f"arrival_{unit} read as {words}" + said.replace(",", " by its name,")
    assert read(put(own(f"arrival_{unit}", *times))).read_as == expected


def test_times_of_no_ordinary_rate_in_any_unit_are_refused(put: Put) -> None:
    said = r"timestamp: the unit .* \(seconds: 1e-15 requests/s; .*; nanoseconds: 1e-06 requests/s\); --time-"
    with pytest.raises(InputError, match=said):
        read(put(own("timestamp", 1, 10**15)))


def test_spans_and_rates_for_people() -> None:
    assert [span_text(s) for s in (0.0614, 9.25, 10.0, 1234.56)] == [
        "0.0614 s",
        "9.25 s",
        "10.0 s",
        "1,234.6 s",
    ]
    rates = [rate_text(rate) for rate in (0.0493, 99.4, 100.0, 1234.6)]
    assert rates == [f"{shown} requests/s" for shown in ("0.049", "99", "100", "1,235")]


@pytest.mark.parametrize("kind", ["Azure", "own"])
def test_a_word_in_place_of_a_time_is_said_to_be_no_date_or_no_number(put: Put, kind: str) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\nsoon,9,5\n" if kind == "Azure" else own("timestamp", "soon")
    )
    expected = "'soon' is not a date and time" if kind == "Azure" else "'soon' is not a number"
    with pytest.raises(InputError, match=f"row 1, .*: {expected}"):
        read(put(text))


def test_the_most_that_a_time_may_be_is_of_the_unit_that_a_format_has(put: Put) -> None:
    with pytest.raises(InputError, match=r"line 2, timestamp: 1e\+21 is above 100000000000000$"):
        read(put(mooncake(0, 1e21, hash_ids=[1])))


@pytest.mark.parametrize(
    ("column", "left_out", "times", "said"),
    [
        ("timestamp", "n/a", ("0", EPOCH_S, EPOCH_S + 5), "0 is no date"),
        ("timestamp", "0", ("0", EPOCH_S, EPOCH_S + 5), "0 is no date"),
        (
            "timestamp",
            "5",
            ("45246.76095", "45246.76105", "45247.5"),
            "45246.76095 may be a date of a spread",
        ),
        (
            "arrival_s",
            "",
            ("2024-11-03 01:59:50", "2024-11-03 01:59:58"),
            "'2024-11-03 01:59:50' is not a num",
        ),
        ("arrival_s", "7", (EPOCH_S * 1000, EPOCH_S * 1000 + 5), "1760000000000 is a date since 1970"),
    ],
)
def test_the_row_that_is_named_is_none_that_is_left_out(
    put: Put, column: str, left_out: str, times: tuple[object, ...], said: str
) -> None:
    """The first request failed: whatever its time is, it is not looked at."""
    rows = "".join(f"{time},9,5,{k > 0}\n" for k, time in enumerate((left_out, *times)))
    with pytest.raises(InputError, match=f"row 2, {column}: {said}"):
        read(put(f"{column},prompt_tokens,output_tokens,success\n{rows}"))


def test_what_was_assumed_is_logged_in_one_line(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "traces")
    path = put(mooncake(*FOUR, chat_id=1, session=2, colour="red", hash_ids=[1]))
    read(path)
    assert caplog.messages == [
        f"{path}: Mooncake; timestamp read as seconds (span 61.1 s, 0.049 requests/s); hash_ids of "
        "blocks of 16 tokens: 75 % of the prompt tokens can be found again; columns not used: chat_id, "
        "session, colour"
    ]
    assert read(path).read_as == "timestamp read as seconds"


def test_other_columns_of_times_are_said_not_to_be_used(put: Put) -> None:
    trace = read(put("prompt_tokens,output_tokens,arrival_s,timestamp\n9,5,0,100\n9,5,1,101\n"))
    assert trace.notes == ("columns not used: timestamp",)


@pytest.mark.parametrize("unit", ["sec", "", "m"])
def test_an_unknown_unit_is_refused(put: Put, unit: str) -> None:
    with pytest.raises(InputError, match=f"time_unit: '{unit}' is not one of s, ms, us, ns"):
        read(put(own("arrival_s", 0, 1)), time_unit=unit)


def test_a_unit_where_there_are_no_times_is_refused(put: Put) -> None:
    with pytest.raises(InputError, match=r"time_unit: ms is of no use: .* has no column of times"):
        read(put("prompt_tokens,output_tokens\n9,5\n"), time_unit="ms")
    with pytest.raises(InputError, match="time_unit: ms is of no use for fixed, which is drawn"):
        load("fixed", time_unit="ms")


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    gaps_s=st.lists(st.floats(0.05, 5), min_size=3, max_size=30),
    unit=st.sampled_from([*PER_SECOND]),
    start_s=st.sampled_from([0.0, 17.0, 353399.0, float(EPOCH_S)]),
    is_named=st.booleans(),
    is_whole=st.booleans(),
    of_mooncake=st.booleans(),
)
def test_times_are_read_right_or_refused(
    put: Put,
    gaps_s: list[float],
    unit: Unit,
    start_s: float,
    is_named: bool,
    is_whole: bool,
    of_mooncake: bool,
) -> None:
    """Never off by a power of ten, at ordinary rates, whatever the unit and the clock."""
    ticks, at = [start_s], start_s
    for gap in gaps_s:
        at += gap
        ticks.append(at)
    values = [t * PER_SECOND[unit] for t in ticks]
    if is_whole:
        values = [float(round(value)) for value in values]
    meant = (values[-1] - values[0]) / PER_SECOND[unit]
    column = f"arrival_{unit}" if is_named else "timestamp"
    text = mooncake(*values) if of_mooncake else own(column, *map(repr, values))
    try:
        found = span(put(text))
    except InputError as error:
        assert not is_named or of_mooncake
        assert "--time-unit" in str(error)
        assert span(put(text), unit) == pytest.approx(meant, rel=1e-6)
    else:
        assert found == pytest.approx(meant, rel=1e-6)


def seconds(path: Path, time_unit: str | None = None) -> list[float]:
    trace = read(path, time_unit=time_unit)
    assert trace.arrival_s is not None
    return [float(time) for time in trace.arrival_s]


def dated(*dates: str) -> str:
    return "timestamp,prompt_tokens,output_tokens\n" + "".join(f"{date},10,5\n" for date in dates)


def test_a_clock_that_was_set_back_is_refused(put: Put) -> None:
    local = ["2024-11-03 01:59:50", "2024-11-03 01:59:58", "2024-11-03 01:00:01", "2024-11-03 01:00:09"]
    with pytest.raises(
        InputError, match=r"row 3, timestamp: '2024-11-03 01:00:01' is 3,597 s before the row"
    ):
        read(put(dated(*local)))
    with pytest.raises(
        InputError, match=r"row 2, timestamp: '2024-10-27 03:00:01' is 3,595 s before the row"
    ):
        read(put(dated("2024-10-27 03:59:56", "2024-10-27 03:00:01")))
    offsets = [f"{each}-0{4 + (row > 1)}:00" for row, each in enumerate(local)]
    assert seconds(put(dated(*offsets))) == [0, 8, 11, 19]


@pytest.mark.parametrize(
    "dates",
    [
        ["2024-11-03 12:59:58", "2024-11-03 12:00:01"],
        ["2024-11-03 04:59:58", "2024-11-03 04:00:01"],
        ["2024-11-03 01:59:58", "2024-11-03 01:30:01"],
        ["2024-11-03 01:59:58", "2024-11-03 01:00:01", "2024-11-03 01:00:00"],
        ["2024-11-03 01:59:58Z", "2024-11-03 01:00:01Z"],
    ],
)
def test_rows_that_are_merely_out_of_order_are_sorted(put: Put, dates: list[str]) -> None:
    assert any("was not in order" in note for note in read(put(dated(*dates))).notes)


@pytest.mark.parametrize("other", ["2024-11-03T02:00:01", "2024-11-03 02:00:01.5"])
def test_dates_of_which_some_have_an_offset_are_refused(put: Put, other: str) -> None:
    with pytest.raises(InputError, match=r"row 2, timestamp: '.*' has none of the offsets above"):
        read(put(dated("2024-11-03T01:59:58-04:00", other)))
    with pytest.raises(
        InputError, match=r"row 2, timestamp: '.*' has an offset, where those above have none"
    ):
        read(put(dated(other, "2024-11-03T01:59:58Z")))


def test_dates_as_bigquery_writes_them(put: Put) -> None:
    assert seconds(put(dated("2025-01-05 10:00:00.250 UTC", "2025-01-05 10:00:05 UTC"))) == [0, 4.75]


@pytest.mark.parametrize("per_second", [1, 10**3, 10**6, 10**9])
def test_a_missing_date_is_no_start(put: Put, per_second: int) -> None:
    text = dated("0", str(1736071205 * per_second), str(1736071206 * per_second))
    with pytest.raises(InputError, match="row 1, timestamp: 0 is no date, where all others are dates since"):
        read(put(text))


def test_dates_of_a_spreadsheet_are_refused(put: Put) -> None:
    text = dated("45246.76095", "45246.76105", "45247.5")
    with pytest.raises(
        InputError, match=r"row 1, timestamp: 45246.76095 may be a date of a spreadsheet, 2023-11"
    ):
        read(put(text))
    assert seconds(put(text), time_unit="s") == pytest.approx([0, 0.0001, 0.73905])


@pytest.mark.parametrize("column", ["arrival_min", "timestamp (hours)", "start_time_days"])
def test_arrivals_in_long_units_are_refused(put: Put, column: str) -> None:
    with pytest.raises(
        InputError, match=r"column .* is in (min|hours|days); write it in seconds, as arrival_s"
    ):
        read(put(dated("0", "1").replace("timestamp", column, 1)))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("interarrival_s", "gaps; their running sum"),
        ("offset_ms", "read as arrival times if it is called arr"),
    ],
)
def test_columns_near_arrivals_are_pointed_at(put: Put, column: str, said: str) -> None:
    trace = read(put(dated("0", "1").replace("timestamp", column, 1)))
    assert trace.arrival_s is None and f"{column} ({said}" in trace.notes[0]


@pytest.mark.parametrize(
    ("times", "note"),
    [
        ("0 0 3 3 9", "80 % of the requests arrive together with another: arrival_s goes in steps of 3 s"),
        ("0 0 3 3.5 4.1", "40 % of the requests arrive together with another"),
    ],
)
def test_a_coarse_clock_is_said(put: Put, times: str, note: str) -> None:
    trace = read(put(dated(*times.split()).replace("timestamp", "arrival_s")))
    assert trace.notes == (note,)


@pytest.mark.parametrize(
    "times", ["0 0 0", "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 20", "0 1.5"]
)
def test_few_or_only_ties_are_not_said(put: Put, times: str) -> None:
    assert read(put(dated(*times.split()).replace("timestamp", "arrival_s"))).notes == ()
