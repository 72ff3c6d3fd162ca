"""Prompts that begin alike where a trace says so, as a server sees them and as the log has them."""

from __future__ import annotations

from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("aiohttp", reason="needs the extra serve")

from real.observing.api import Reply, Target
from real.observing.observation import observation
from real.observing.observe import observe
from real.observing.sending import Sent
from real.observing.wording import Prompt, Turn, Wording
from sim.scenario.settings import WorkloadSettings
from sim.studies.server_log import against, read_log
from tests.real.observing.server import Behaviour, serving
from traces.loading import load
from traces.prompt_blocks import PromptBlocks, blocks_of_lists, share_found_again
from traces.trace import Trace

TALKS = (
    "sessions:users=2,turns=3,think_s=0.01,think_law=fixed,system_tokens=40,prompt_tokens=20,"
    "prompt_sigma=0.3,output_tokens=6,output_sigma=0.3,rate=50"
)


def alike(first: str, second: str) -> int:
    """With how many words two texts begin alike."""
    pairs = zip(first.split(), second.split(), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def prompts_of(does: Behaviour) -> list[str]:
    """What the server was sent, probes aside."""
    return [body["prompt"] for body in does.seen[2:]]


def grouped(path: Path) -> Path:
    """Two groups of prompts of 60 tokens that share 40 and 24, and one prompt that shares none."""
    rows = ["a,40", "b,24", "a,40", "b,24", ",0", "a,40"]
    text = "".join(f"{i},{i / 100},60,2,{row}\n" for i, row in enumerate(rows))
    path.write_text(f"request_id,arrival_s,prompt_tokens,output_tokens,prefix_id,prefix_tokens\n{text}")
    return path


@pytest.mark.parametrize(("per_word", "extra"), [(1, 0), (1, 4), (2, 4)])
def test_prompts_of_a_group_begin_alike_and_others_do_not(per_word: int, extra: int, tmp_path: Path) -> None:
    does = Behaviour(tokens_per_word=per_word, extra_tokens=extra)
    for _ in range(2):
        with serving(does) as url:
            watched = observe(url, WorkloadSettings(trace=str(grouped(tmp_path / "trace.csv"))))
    assert (watched.log.prompt_tokens == 60).all()
    assert any("alike where it says" in note for note in watched.notes)
    texts = prompts_of(does)
    once, again = texts[:6], texts[8:]
    for i, j, tokens in ((0, 2, 40), (0, 5, 40), (1, 3, 24)):
        assert alike(once[i], once[j]) == pytest.approx((tokens - extra) / per_word, abs=2)
    for i, j in ((0, 1), (0, 4), (3, 4), (2, 3)):
        assert alike(once[i], once[j]) <= 2
    assert all(alike(one, other) <= 2 for one in once for other in again)


def test_a_turn_goes_on_from_the_answer_before() -> None:
    does = Behaviour(tokens_per_word=1, extra_tokens=0)
    with serving(does) as url:
        log = observe(url, WorkloadSettings(trace=TALKS, max_concurrency=1)).log
    texts = dict(zip(log.sort_values("arrival_s").request_id, prompts_of(does), strict=True))
    assert len(log) == 6 and (log.status == "completed").all()
    for _, turns in log.groupby("session_id"):
        for before, after in pairwise(turns.itertuples()):
            assert texts[after.request_id].startswith(texts[before.request_id] + " a" * before.output_tokens)
            assert after.prompt_tokens > before.prompt_tokens + before.output_tokens
    first, second = (texts[turns.request_id.iloc[0]] for _, turns in log.groupby("session_id"))
    assert alike(first, second) == pytest.approx(40, abs=1)  # the system prompt


def test_the_log_says_what_was_alike(tmp_path: Path) -> None:
    """Answers end before the trace says, so that prompts that hold them are shorter, too."""
    does = Behaviour(tokens_per_word=1, extra_tokens=0, eos_at=2)
    with serving(does) as url:
        watched = observe(url, WorkloadSettings(trace=TALKS, max_concurrency=1), lengths="model")
    watched.save_log(tmp_path / "log.csv")
    trace = read_log(tmp_path / "log.csv").trace
    texts = prompts_of(does)
    order = np.argsort(watched.log.arrival_s.to_numpy(), kind="stable")
    by_id = dict(zip(watched.log.request_id[order], texts, strict=True))
    blocks = trace.blocks
    assert blocks is not None and blocks.answers is not None and trace.output_tokens.tolist() == [2] * 6
    assert share_found_again(blocks, trace.prompt_tokens) > 0.4
    for row, request_id in enumerate(trace.request_id.tolist()):
        text, (hashes, ends) = by_id[request_id], blocks.of(row)
        assert ends[-1] == trace.prompt_tokens[row] == len(text.split())
        for other in range(row):
            shared = [e for h, e in zip(hashes, ends, strict=True) if h in blocks.of(other)[0]]
            # Not less than the words that are the same; those behind are so by chance.
            assert alike(text, by_id[trace.request_id[other]]) == pytest.approx(max(shared), abs=2)
    found = against(
        tmp_path / "log.csv", profile="h200-vicuna-7b", policy="continuous:prefix_caching=on", kv_blocks=1000
    )
    assert found.result.summary["prefix_hit_fraction"] > 0.2


@pytest.mark.parametrize("words", [3, 32, 80])
def test_a_log_of_prompts_that_the_server_counts_otherwise_reads_back(words: int, tmp_path: Path) -> None:
    """The server counts fewer tokens than the trace says, or more, and some requests fail."""
    does = Behaviour(tokens_per_word=1, extra_tokens=0, dies_after=6)
    trace = Trace(
        "made",
        np.arange(6),
        np.full(6, 50),
        np.full(6, 2),
        arrival_s=np.arange(6) / 50,
        prompt=np.array(["word " * (words + i) for i in range(6)], dtype=object),
        blocks=blocks_of_lists([[1, 2]] * 3 + [[1, 3]] * 3, 32, np.full(6, 50)),
    )
    with serving(does) as url:
        watched = observe(url, WorkloadSettings(trace=trace))
    assert watched.summary["failed"] == 2
    watched.save_log(tmp_path / "log.csv")
    blocks = read_log(tmp_path / "log.csv").trace.blocks
    assert blocks is not None and len(blocks) == 4
    assert blocks.of(0)[0] == blocks.of(1)[0] and blocks.of(0)[0][0] == blocks.of(3)[0][0]


def test_turns_are_messages_of_a_chat() -> None:
    chat = Target("http://here", "chat", "tiny")
    said = [("a b", "c"), ("", " d"), (" e", "f")]
    messages = [(m["role"], m["content"]) for m in chat.body(" g", 3, said)["messages"]]
    assert messages == [
        ("user", "a b"),
        ("assistant", "c d"),
        ("user", "e"),
        ("assistant", "f"),
        ("user", "g"),
    ]
    assert Target("http://here", "completions", "tiny").body(" g", 3, said)["prompt"] == "a bc d ef g"


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Prompts in blocks of some tokens, of a tree of hashes, the last block of each partly filled."""
    size = draw(st.integers(1, 20))
    rows = draw(st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=1, max_size=6))
    tails = draw(st.lists(st.integers(0, 30), min_size=len(rows), max_size=len(rows)))
    prompts = np.array([max(1, size * len(row) + tail) for row, tail in zip(rows, tails, strict=True)])
    blocks = blocks_of_lists(rows, [[size] * len(row) for row in rows], prompts)
    ones = np.ones(len(rows), dtype=np.int64)
    return Trace("made", np.arange(len(rows)), prompts, ones, arrival_s=np.zeros(len(rows)), blocks=blocks)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), st.integers(0, 2), st.sampled_from([10, 100, 400]), st.integers(0, 99))
def test_no_count_of_a_server_costs_the_log(seed: int, agents: int, most: int, counts: int) -> None:
    """Whatever lengths a server states, and whatever fails: the log of a run can be written and says which
    prompts begin alike, within their lengths.
    """
    trace, rng = load(f"{TALKS},agents={agents}", seed=seed), np.random.default_rng(counts)
    replies: list[Reply | None] = [
        Reply(0.1, 0.2, 0.3, chunks=1, prompt_tokens=prompt, output_tokens=output, error="" if ok else "lost")
        for prompt, output, ok in zip(
            rng.integers(1, most, len(trace)).tolist(),
            rng.integers(1, most, len(trace)).tolist(),
            rng.random(len(trace)) < 0.8,
            strict=True,
        )
    ]
    log = observation(Sent(0.0, replies, [0.0] * len(trace)), trace, {}, {}).log
    assert trace.blocks is not None
    of_hash: dict[int, int] = {}
    for row, (hashes, tokens) in enumerate(zip(log.hash_ids, log.hash_tokens, strict=True)):
        assert hashes == trace.blocks.of(row)[0] and min(tokens) >= 0
        assert sum(tokens) <= log.prompt_tokens[row]
        for value, end in zip(hashes, np.cumsum(tokens).tolist(), strict=True):
            assert of_hash.setdefault(value, end) == end


@settings(deadline=None, max_examples=60)
@given(traces(), st.sampled_from([Wording(), Wording(1.0, 3.0), Wording(1.7, 5.0)]), st.integers(0, 9))
def test_words_are_alike_as_far_as_blocks_are(trace: Trace, wording: Wording, seed: int) -> None:
    texts = [prompt.text for prompt in wording.prompts(trace, np.random.default_rng(seed))]
    assert trace.blocks is not None

    def words(tokens: int) -> int:
        return max(0, round((tokens - wording.extra_tokens) / wording.tokens_per_word))

    for row, text in enumerate(texts):
        assert len(text.split()) == max(1, words(int(trace.prompt_tokens[row])))
        hashes, ends = trace.blocks.of(row)
        for other in range(row):
            shared = [e for h, e in zip(hashes, ends, strict=True) if h in trace.blocks.of(other)[0]]
            assert alike(text, texts[other]) >= words(max(shared, default=0))


def test_answers_are_turns_of_the_prompts_that_hold_them() -> None:
    blocks = PromptBlocks(
        hashes=np.array([1, 1, 2, 3]),
        ends=np.array([4, 4, 7, 9]),
        offsets=np.array([0, 1, 4]),
        answers=np.array([2, -1]),
    )
    made: dict[str, Any] = {"request_id": np.arange(2), "prompt_tokens": np.array([4, 9])}
    trace = Trace("made", **made, output_tokens=np.array([3, 1]), arrival_s=np.zeros(2), blocks=blocks)
    first, second = Wording().prompts(trace, np.random.default_rng(0))
    assert first == Prompt(first.text) and len(first.text.split()) == 4
    (turn,) = second.before
    assert turn == Turn(first.text, 0, turn.otherwise)
    assert [len(part.split()) for part in (turn.otherwise, second.text)] == [3, 2]
    assert turn.otherwise.startswith(" ") and second.text.startswith(" ")
