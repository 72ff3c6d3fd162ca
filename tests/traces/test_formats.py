"""Every format's reader on small files, on real ones where they are at hand, and on random bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from traces import InputError, load
from traces.formats import read
from traces.known_formats import FORMATS
from traces.readers import Format, Reading
from traces.registry import Registry
from traces.tables import Table
from traces.trace import Trace

Put = Callable[..., Path]


def lines(*records: dict[str, object]) -> str:
    return "\n".join(map(json.dumps, records)) + "\n"


def test_own_csv_with_only_the_lengths(put: Put) -> None:
    trace = read(put("prompt_tokens,output_tokens\n10,5\n20,6\n", "mine.csv"))
    assert trace.name == "mine"
    assert trace.columns() == ("request_id", "prompt_tokens", "output_tokens")
    assert trace.request_id.tolist() == [0, 1]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([10, 20], [5, 6])
    assert (trace.max_new_tokens, trace.notes, trace.prompt_tokens.dtype) == (None, (), np.int64)


def test_own_csv_with_every_column(put: Put) -> None:
    header = (
        "request_id,arrival_s,prompt_tokens,output_tokens,predicted_tokens,priority,prompt,user,deadline_s"
    )
    trace = read(
        put(f'{header},L_a,L_b,ttft_ms\nx,5.5,1,2,0,-3,"p, ""q""\nr",u,7,8,9,1.5\ny,6,1,2,4,0,,v,8,1,1,2\n')
    )
    assert trace.request_id.tolist() == ["x", "y"]
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [0.0, 0.5]
    assert trace.deadline_s is not None and trace.deadline_s.tolist() == [1.5, 2.5]
    assert trace.predicted_tokens is not None and trace.predicted_tokens.tolist() == [0, 4]
    assert trace.priority is not None and trace.priority.tolist() == [-3, 0]
    assert trace.prompt is not None and trace.prompt.tolist() == ['p, "q"\nr', ""]
    assert trace.user is not None and trace.user.tolist() == ["u", "v"]
    assert trace.samples is not None and trace.samples.tolist() == [[8, 9], [1, 1]]
    assert trace.sample_names == ("a", "b")
    assert trace.notes == ("columns not used: ttft_ms",)


def test_caps_of_the_requests_are_read_and_answers_beyond_them_said(put: Put) -> None:
    trace = read(put("prompt_tokens,output_tokens,max_tokens\n10,5,5\n10,9,8\n10,0,0\n"))
    assert trace.max_tokens is not None and trace.max_tokens.tolist() == [5, 8]
    assert trace.output_tokens.tolist() == [5, 9]
    assert "1 of 3 answers are longer than their max_tokens" in trace.notes[-1]
    clipped = read(put("prompt_tokens,output_tokens,max_tokens\n10,5,50\n"), max_new_tokens=20)
    assert clipped.max_tokens is not None and clipped.max_tokens.tolist() == [20]
    with pytest.raises(InputError, match="row 1, max_tokens: 0 is below 1"):
        read(put("prompt_tokens,output_tokens,max_tokens\n10,5,0\n"))


def test_own_jsonl_may_lack_line_ends_and_have_blank_lines(put: Put) -> None:
    trace = read(put('{"prompt_tokens": 1, "output_tokens": 2}\n\n{"output_tokens": 4, "prompt_tokens": 3}'))
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([1, 3], [2, 4])


def test_own_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "odd.name"
    parquet.write_table(
        pa.table({"prompt_tokens": [1, 3], "output_tokens": [2.0, 4.0], "user": ["a", "b"]}), path
    )
    trace = read(path)
    assert (trace.output_tokens.tolist(), trace.output_tokens.dtype) == ([2, 4], np.int64)
    assert trace.user is not None and trace.user.tolist() == ["a", "b"]


@pytest.mark.parametrize("name", ["t.csv", "t.json", "t.parquet", "t"])
def test_content_decides_not_the_suffix(put: Put, name: str) -> None:
    trace = read(put(lines({"timestamp": 0, "input_length": 1, "output_length": 2}), name))
    assert trace.output_tokens.tolist() == [2]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_mark_and_line_ends_of_every_kind(put: Put, newline: str, mark: bytes) -> None:
    text = newline.join(["prompt_tokens, output_tokens", "", "1, 2", "3,4", ""])
    trace = read(put(mark + text.encode()))
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([1, 3], [2, 4])
    if newline != "\r":
        trace = read(
            put(mark + lines({"prompt_tokens": 1, "output_tokens": 2}).replace("\n", newline).encode())
        )
        assert trace.output_tokens.tolist() == [2]


def test_ids_are_integers_only_where_all_are_written_as_such(put: Put) -> None:
    head = "request_id,prompt_tokens,output_tokens\n"
    assert read(put(head + "5,1,1\n-3,1,1\n")).request_id.tolist() == [5, -3]
    assert read(put(head + "007,1,1\n8,1,1\n")).request_id.tolist() == ["007", "8"]
    assert read(put(head + f"{10**30},1,1\n8,1,1\n")).request_id.tolist() == [str(10**30), "8"]


def test_azure_dates_become_seconds_from_the_first(put: Put) -> None:
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    trace = read(put(head + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"))
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [
        0.0,
        pytest.approx(4.314579, abs=1e-9),
    ]
    assert trace.output_tokens.tolist() == [44, 109]
    later = read(put(head + "2024-05-10 00:00:00+00:00,1,1\n2024-05-10 00:00:00.009930+00:00,1,1\n"))
    assert later.arrival_s is not None and later.arrival_s[1] == pytest.approx(0.00993)


@pytest.mark.parametrize("extra", [False, True], ids=["older", "newer"])
def test_burstgpt_leaves_out_failures_and_says_how_many(put: Put, extra: bool) -> None:
    middle, values = (",Session ID,Elapsed time", ",,1.5") if extra else ("", "")
    text = f"Timestamp{middle},Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "".join(
        f"{t}{values},GPT-4,{p},{o},{p + o},API log\n"
        for t, p, o in ((5, 0, 0), (45, 100, 7), (118, 9, 0), (145, 3, 8))
    )
    trace = read(put(text))
    assert trace.request_id.tolist() == [1, 3]
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [0.0, 100.0]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([100, 3], [7, 8])
    assert any(
        note.startswith("2 of 4 requests have 0 output tokens (Response tokens, first in row 1)")
        for note in trace.notes
    )


def test_mooncake_is_in_milliseconds(put: Put) -> None:
    trace = read(
        put(
            lines(
                {"timestamp": 3000, "input_length": 6758, "output_length": 500, "hash_ids": [*range(14)]},
                {"timestamp": 4500, "input_length": 7, "output_length": 490, "hash_ids": []},
            )
        )
    )
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [0.0, 1.5]
    assert trace.prompt_tokens.tolist() == [6758, 7]


def test_vidur_with_and_without_times(put: Put) -> None:
    timed = read(put("arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,10,3\n2.0,11,4\n"))
    assert timed.arrival_s is not None and timed.arrival_s.tolist() == [0.0, 0.5]
    assert read(put("num_prefill_tokens,num_decode_tokens,pd_ratio\n10,3,0.5\n")).arrival_s is None


SHAREGPT: list[dict[str, object]] = [
    {
        "id": "a_0",
        "conversations": [
            {"from": "human", "value": "one two"},
            {"from": "gpt", "value": "three"},
            {"from": "human", "value": "ignored"},
        ],
    },
    {"id": "a_1", "conversations": [{"from": "gpt", "value": "no question"}]},
    {"id": "a_2", "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "1 2 3"}]},
]


def test_sharegpt_takes_the_first_exchange(put: Put) -> None:
    trace = read(put(json.dumps(SHAREGPT)), tokenizer=lambda text: len(text.split()))
    assert trace.request_id.tolist() == ["a_0", "a_2"]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([2, 1], [1, 3])
    assert trace.prompt is not None and trace.prompt.tolist() == ["one two", "x"]
    assert any(note.startswith("1 of 3 conversations") for note in trace.notes)


def test_sharegpt_without_a_tokenizer_says_so(put: Put) -> None:
    with pytest.raises(InputError, match="ShareGPT holds text, so its lengths need a tokenizer"):
        read(put(json.dumps(SHAREGPT)))


LENGTHS = [
    {"id": "4", "L_gt": 1, "L_t0.0": 514, "L_t0.3": 600, "L_t0.5": 3, "L_t0.7": 4},
    {"id": "2", "L_gt": 1, "L_t0.0": 20, "L_t0.3": 6, "L_t0.5": 30, "L_t0.7": 4},
]


def test_length_file_clips_the_output_and_keeps_the_samples(put: Put) -> None:
    trace = read(put(json.dumps(LENGTHS, indent=4)))
    assert trace.request_id.tolist() == [4, 2]
    assert (trace.output_tokens.tolist(), trace.max_new_tokens) == ([512, 20], 512)
    assert trace.sample_names == ("t0.0", "t0.3", "t0.5", "t0.7")
    assert trace.perceived_truth.tolist() == [600, 30]
    assert trace.arrival_s is None
    assert any("prompt_tokens are drawn" in note for note in trace.notes)


def test_length_file_draws_prompts_with_the_seed(put: Put) -> None:
    path = put(json.dumps([{**LENGTHS[0], "id": str(i)} for i in range(2000)]))
    first, again, other = read(path, seed=1), read(path, seed=1), read(path, seed=2)
    assert first.prompt_tokens.tolist() == again.prompt_tokens.tolist() != other.prompt_tokens.tolist()
    assert 45 <= np.median(first.prompt_tokens) <= 55
    assert first.prompt_tokens.max() <= 256


def test_max_new_tokens_caps_any_format(put: Put) -> None:
    assert read(put(json.dumps(LENGTHS)), max_new_tokens=600).output_tokens.tolist() == [514, 20]
    capped = read(put("prompt_tokens,output_tokens\n10,5\n20,6\n"), max_new_tokens=5)
    assert (capped.output_tokens.tolist(), capped.max_new_tokens) == ([5, 5], 5)
    with pytest.raises(InputError, match="max_new_tokens: 0 is not between 1 and"):
        read(put("prompt_tokens,output_tokens\n1,1\n"), max_new_tokens=0)
    with pytest.raises(InputError, match="seed: -1 is below 0"):
        read(put("prompt_tokens,output_tokens\n1,1\n"), seed=-1)


def test_a_length_file_that_was_converted_keeps_its_samples(put: Put) -> None:
    header = "request_id,prompt_tokens,output_tokens,L_gt,L_t0.0,L_t0.3,L_t0.5,L_t0.7"
    trace = read(put(f"{header}\n9,40,512,3,514,2,3,4\n"))
    assert trace.sample_names == ("t0.0", "t0.3", "t0.5", "t0.7")
    assert any(note.startswith("L_gt is not used") for note in trace.notes)


def test_unsorted_times_are_sorted_stably_with_a_note(put: Put) -> None:
    trace = read(put("arrival_s,prompt_tokens,output_tokens\n9,1,1\n5,2,1\n9,3,1\n5,4,1\n"))
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [0, 0, 4, 4]
    assert trace.prompt_tokens.tolist() == [2, 4, 1, 3]
    assert trace.request_id.tolist() == [1, 3, 0, 2]
    assert any(note.startswith("arrival_s was not in order") for note in trace.notes)
    many = [f"{i % 3},{i + 1},1" for i in range(3000)]
    trace = read(put("\n".join(["arrival_s,prompt_tokens,output_tokens", *many])))
    assert all((np.diff(trace.prompt_tokens[trace.arrival_s == second]) > 0).all() for second in range(3))


def test_no_two_formats_fit_the_same_required_columns() -> None:
    formats: list[Any] = list(FORMATS.table.values())
    for known in formats:
        assert [other for other in formats if other.matches(known.required)] == [known]


def test_a_new_format_is_one_class_and_one_entry(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    from traces import checks, formats

    class Tab(Format):
        required = ("chat_len",)

        def read(self, table: Table, reading: Reading) -> Trace:
            lengths = checks.tokens(table, "chat_len")
            return Trace("tab", np.arange(table.num_rows), lengths, lengths)

    monkeypatch.setattr(formats, "FORMATS", Registry("trace", {**FORMATS.table, "tab": Tab}))
    assert read(put("chat_len,x\n4,5\n")).prompt_tokens.tolist() == [4]
    with pytest.raises(InputError, match="row 1, chat_len: 0 is below 1"):
        read(put("chat_len,x\n0,5\n"))


def test_a_million_tokens_of_rows_read_fast(put: Put) -> None:
    rows = 20_000
    body = "".join(f"{i},{i * 0.25},{i % 900 + 1},{i % 500 + 1}\n" for i in range(rows))
    path = put("request_id,arrival_s,prompt_tokens,output_tokens\n" + body)
    read(path)
    spent = []
    for _ in range(3):
        start = time.process_time()
        trace = read(path)
        spent.append(time.process_time() - start)
    assert len(trace) == rows
    assert min(spent) < 0.3


def test_load_takes_files_generators_and_datasets(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put("prompt_tokens,output_tokens\n1,9\n", "mine.csv")
    assert load(path).name == load(str(path)).name == "mine"
    assert len(load("fixed", num_prompts=3, max_new_tokens=7)) == 3
    assert load("fixed", num_prompts=3, max_new_tokens=7).output_tokens.max() <= 7
    monkeypatch.setattr("traces.datasets.fetch", lambda name: path)
    assert load("azure-conv-2023").name == "azure-conv-2023"


def test_load_takes_the_first_requests_of_whatever_it_loads(put: Put) -> None:
    path = put("prompt_tokens,output_tokens\n1,9\n2,8\n3,7\n", "mine.csv")
    for source in (path, f"seqsched:file={path}"):
        assert load(source, num_prompts=2).prompt_tokens.tolist() == [1, 2]
        assert len(load(source)) == 3
        with pytest.raises(InputError, match=r"num_prompts: 4 is not between 1 and 3, the length of trace"):
            load(source, num_prompts=4)


def test_load_prefers_a_name_over_a_bare_file_and_a_path_over_a_name(
    put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put("prompt_tokens,output_tokens\n1,9\n", "fixed")
    bare = put("prompt_tokens,output_tokens\n1,9\n", "bare")
    monkeypatch.chdir(path.parent)
    assert len(load("fixed", num_prompts=5)) == 5
    assert len(load("./fixed")) == len(load(path)) == len(load(bare.name)) == 1


@pytest.mark.parametrize("source", ["missing.csv", "no/such", "nothing", "fixd:x=1", ""])
def test_load_names_what_it_knows(source: str) -> None:
    with pytest.raises(InputError, match=r"no such file, nor a dataset \(.*azure-conv-2023.*fixed"):
        load(source)


TEXT = st.text(alphabet=st.sampled_from('01249.-eE"{}[]:,\n\r \tabnN_\u00e9'), max_size=200)
HEADS = st.sampled_from(
    (
        "",
        "[",
        "{",
        "PAR1",
        "prompt_tokens,output_tokens\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-",
        '{"timestamp": 1, "input_length": 2, "output_length": 3}\n',
        '[{"conversations": [',
        '[{"id": "1", "L_t0.0": ',
    )
)
FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


@FUZZ
@given(head=HEADS, body=st.one_of(st.binary(max_size=200), TEXT.map(str.encode)))
@example(head="[" * 100_000, body=b"")
@example(head='{"prompt_tokens": ' + "9" * 5000, body=b', "output_tokens": 1}')
@example(head='{"prompt_tokens": 1e999, "output_tokens": 1}', body=b"")
@example(head='{"user": "\\ud800", "prompt_tokens": 1, "output_tokens": 1}', body=b"")
def test_garbage_raises_nothing_but_input_error(put: Put, head: str, body: bytes) -> None:
    path = put(head.encode() + body)
    try:
        trace = read(path, tokenizer=len)
    except InputError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:
        assert (trace.prompt_tokens >= 1).all() and (trace.output_tokens >= 1).all()


@FUZZ
@given(cells=st.lists(st.lists(TEXT, min_size=1, max_size=3), min_size=1, max_size=4))
def test_garbage_cells_raise_nothing_but_input_error(put: Put, cells: list[list[str]]) -> None:
    rows = "\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells)
    try:
        read(put("prompt_tokens,output_tokens,user\n" + rows))
    except InputError as error:
        assert "\n" not in str(error)


@FUZZ
@given(at=st.integers(0, 2000), byte=st.integers(0, 255), cut=st.booleans())
@example(at=305, byte=128, cut=False)
def test_damaged_parquet_raises_nothing_but_input_error(put: Put, at: int, byte: int, cut: bool) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(
        pa.table({"prompt_tokens": [1, 3], "output_tokens": [2, 4], "user": ["a", "b"]}), sink
    )
    content = bytearray(sink.getvalue().to_pybytes())
    content[at % len(content)] = byte
    path = put(bytes(content[: at % len(content)] if cut else content))
    try:
        read(path)
    except InputError as error:
        assert "\n" not in str(error)


REAL = {
    "alpaca-val-10k-length.json": (10_000, 1.233),
    "AzureLLMInferenceTrace_conv.csv": (19_366, 4.089),
    "mooncake-conversation_trace.jsonl": (12_031, 4.122),
    "rtx4090-llama-3.1-8b-vllm.csv": (300, 0.196),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_read_whole(data: Path, name: str) -> None:
    if not (data / name).exists():
        pytest.skip(f"{name} is not in the folder that SEQSCHED_DATA names")
    trace = read(data / name)
    rows, million_output_tokens = REAL[name]
    assert len(trace) == rows
    assert trace.output_tokens.sum() / 1e6 == pytest.approx(million_output_tokens, abs=0.001)
