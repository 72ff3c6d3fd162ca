"""Differences are found where there are some, and hardly ever where there are none, at all looks together."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving.arms import arm_of
from real.serving.call import Call
from real.serving.comparison import FIRST_LOOK, Sample, alpha_of, compare, is_look, look_of
from real.serving.guard import Guard
from real.serving.quality import looks
from tests.real.serving.running import Up, with_fakes
from tests.real.serving.upstream import Fake
from tests.sim.command import run
from traces.errors import InputError


class Rows(NamedTuple):
    """Requests of an arm, one by one."""

    output_tokens: Any
    e2el_s: Any
    predicted_tokens: Any
    reasons: dict[str, int]
    failed: int = 0

    def sample(self) -> Sample:
        return Sample.of(*self)


def sample(rng: np.random.Generator, n: int, **how: Any) -> Sample:
    return rows(rng, n, **how).sample()


def rows(rng: np.random.Generator, n: int, *, scale: float = 1.0, failed: int = 0, stop: float = 0.9) -> Rows:
    tokens = np.ceil(scale * rng.lognormal(4, 1, n))
    ended = int(rng.binomial(n, stop))
    return Rows(
        tokens,
        tokens / 50,
        np.ceil(tokens * rng.lognormal(0, 0.3, n)),
        {"stop": ended, "length": n - ended},
        failed,
    )


def test_looks_are_taken_at_doubling_numbers() -> None:
    taken = [n for n in range(10_000) if is_look(n)]
    assert taken == [200, 400, 800, 1600, 3200, 6400]
    assert [look_of(n) for n in (199, 200, 399, 400, 6400)] == [0, 1, 1, 2, 6]


def test_all_looks_together_spend_no_more_than_alpha() -> None:
    spent = sum(alpha_of(look, 0.05) for look in range(1, 100_000))
    assert 0.0499 < spent <= 0.05


def test_equal_arms_are_hardly_ever_found_to_differ_at_any_look() -> None:
    rng = np.random.default_rng(7)
    worlds, wrong = 300, 0
    for _ in range(worlds):
        both = [rows(rng, 1600) for _ in range(2)]
        wrong += any(
            _found(compare(_first(both[0], n), _first(both[1], n), alpha=0.2))
            for n in (100, 200, 400, 800, 1600)
        )
    # at most 0.2; binomial, three standard deviations
    assert wrong / worlds <= 0.2 + 3 * (0.16 / worlds) ** 0.5


def _first(all_: Rows, n: int) -> Sample:
    return Sample.of(all_.output_tokens[:n], all_.e2el_s[:n], all_.predicted_tokens[:n], {"stop": n}, 0)


def _found(difference: Any) -> bool:
    return bool(difference is not None and difference.findings)


def test_longer_answers_are_found_and_named() -> None:
    rng = np.random.default_rng(1)
    found = compare(sample(rng, 2000, scale=1.5), sample(rng, 2000))
    assert found is not None and any("answer lengths differ" in text for text in found.findings)
    assert found.lengths > found.seen_from and "answer lengths differ" in found.text


def test_failures_are_found_even_where_nothing_is_answered() -> None:
    rng = np.random.default_rng(2)
    nothing = Sample.of(np.zeros(0), np.zeros(0), np.zeros(0), {}, 150)
    found = compare(nothing, sample(rng, 150))
    assert found is not None and found.failures == 1.0
    assert "100.0 % more requests fail under the policy" in found.text
    few = compare(sample(rng, 500, failed=4), sample(rng, 500, failed=3))
    assert few is not None and not few.findings and few.failures_interval[0] < 0 < few.failures_interval[1]


def test_another_finish_reason_is_found() -> None:
    rng = np.random.default_rng(3)
    found = compare(sample(rng, 2000, stop=0.8), sample(rng, 2000, stop=0.95))
    assert found is not None and any("end by" in text for text in found.findings)


def test_what_is_seen_from_shrinks_as_the_root_of_the_rows() -> None:
    rng = np.random.default_rng(4)
    small, large = (compare(sample(rng, n), sample(rng, n)) for n in (400, 40_000))
    assert small is not None and large is not None
    assert 8 < small.seen_from / large.seen_from < 10.5
    assert "no difference seen in answer lengths down to" in large.text


def test_latency_is_compared_by_predicted_length() -> None:
    rng = np.random.default_rng(5)
    policy, other = rows(rng, 3000), rows(rng, 3000)
    quick = np.where(policy.predicted_tokens < np.median(policy.predicted_tokens), 0.5, 2.0)
    found = compare(policy._replace(e2el_s=policy.e2el_s * quick).sample(), other.sample())
    assert found is not None
    third = np.quantile(np.concatenate([policy.predicted_tokens, other.predicted_tokens]), 1 / 3)
    short = [arm.predicted_tokens <= third for arm in (policy, other)]
    expected = (policy.e2el_s * quick)[short[0]].mean() / other.e2el_s[short[1]].mean()
    assert found.latency["short"][0] == pytest.approx(expected)
    assert found.latency["short"][2] < 1 < found.latency["long"][1]
    for ratio, low, high in found.latency.values():
        assert low < ratio < high


@pytest.mark.parametrize("n", [30, 300])
def test_intervals_of_latency_are_those_of_the_bootstrap(n: int) -> None:
    rng = np.random.default_rng(n)
    arms = [rows(rng, n, scale=scale) for scale in (1.3, 1.0)]
    found = compare(*(arm.sample() for arm in arms))
    assert found is not None
    ratio, low, high = found.latency["all"]
    assert ratio == pytest.approx(arms[0].e2el_s.mean() / arms[1].e2el_s.mean())
    means = [rng.choice(arm.e2el_s, (4000, n)).mean(axis=1) for arm in arms]
    spent = alpha_of(look_of(2 * n), 0.05)
    bounds = np.quantile(means[0] / means[1], [spent / 2, 1 - spent / 2])
    assert np.log([low, high]) == pytest.approx(np.log(bounds), abs=0.15 * np.log(high / low))


def test_times_that_are_nothing_have_no_ratio() -> None:
    nothing = Sample.of(np.full(200, 5.0), np.zeros(200), np.full(200, 5.0), {})
    found = compare(nothing, sample(np.random.default_rng(8), 200))
    assert found is not None and found.latency == {}


def test_a_look_costs_what_there_are_lengths_not_requests() -> None:
    rng = np.random.default_rng(9)
    guard = Guard()
    for arm in guard.arms:
        for tokens, tenth in zip(rng.lognormal(5, 1.5, 40_000), range(40_000), strict=True):
            guard.answered(arm, 1 + int(tokens), tenth / 10, 1 + int(2 * tokens), "stop")
    for tally in guard.arms.values():  # as much again, 50 times
        tally.tokens = Counter({tokens: 50 * count for tokens, count in tally.tokens.items()})
        tally.e2el = {tokens: [50 * each for each in sums] for tokens, sums in tally.e2el.items()}
    took_s = []
    for _ in range(5):
        since_s = time.perf_counter()
        found = compare(*(tally.sample() for tally in guard.arms.values()))
        took_s.append(time.perf_counter() - since_s)
    assert found is not None and found.num_requests == (2_000_000, 2_000_000)
    assert min(took_s) < 0.1  # 0.01 on a quiet core


@given(
    data=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 100), st.integers(1, 60)), min_size=60),
    longest=st.sampled_from([40, 1 << 30]),
)
def test_counts_say_what_the_rows_do(data: list[tuple[int, int, int]], longest: int) -> None:
    """By scipy and numpy, of all rows."""
    scale = longest // 40
    answers = [(tokens * scale, e2el / 7, predicted * scale) for tokens, e2el, predicted in data]
    guard, half = Guard(), len(answers) // 2
    arms = answers[:half], answers[half:]
    for arm, rows_ in zip(guard.arms, arms, strict=True):
        for row in rows_:
            guard.arms[arm].add(*row, "stop")
    found = compare(*(tally.sample() for tally in guard.arms.values()))
    assert found is not None
    columns = [np.array(rows_).T for rows_ in arms]
    if longest == 40:
        expected = stats.ks_2samp(columns[0][0], columns[1][0], method="asymp").statistic
        assert found.lengths == pytest.approx(expected)
    of = [column[1] for column in columns]
    if min(each.mean() for each in of) > 0:
        ratio, lowest, _ = found.latency["all"]
        assert ratio == pytest.approx(of[0].mean() / of[1].mean())
        error = np.hypot(*(each.std(ddof=1) / each.mean() / np.sqrt(len(each)) for each in of))
        z = stats.norm.isf(alpha_of(0, 0.05) / 2)
        assert lowest == pytest.approx(ratio * np.exp(-z * error), abs=1e-6)
    assert all(len(tally.tokens) <= 40 for tally in guard.arms.values())


def test_the_guard_stops_what_is_worse_and_lets_the_better_go_on() -> None:
    for policy_s, reason in ((0.5, ""), (1.5, "mean latency under the policy is 1.50 ×")):
        guard = Guard()
        for i in range(2 * FIRST_LOOK):
            guard.answered("policy", 10 + i % 7, policy_s * (1 + i % 5), 10, "stop")
            guard.answered("fcfs", 10 + i % 7, 1.0 * (1 + i % 5), 10, "stop")
        assert (
            guard.found is not None and guard.reason.startswith(reason) and bool(guard.reason) == bool(reason)
        )


def call(id_: int, *, key: str | None = None, **body: Any) -> Call:
    return Call(id_, "/v1/completions", b"", body, {}, 0.0, key)


def test_senders_stay_in_their_arm_and_the_share_is_kept() -> None:
    arms = [arm_of(call(i), 0.1) for i in range(5000)]
    assert 0.08 < arms.count("policy") / 5000 < 0.12
    assert len({arm_of(call(i, key="alice"), 0.5) for i in range(50)}) == 1
    assert len({arm_of(call(i, user="bob"), 0.5) for i in range(50)}) == 1
    assert {arm_of(call(i, user="bob"), 1.0) for i in range(50)} == {"policy"}
    assert {arm_of(call(i), 0.0) for i in range(50)} == {"fcfs"}
    in_tenth = {i for i in range(5000) if arm_of(call(i), 0.1) == "policy"}
    assert in_tenth <= {i for i in range(5000) if arm_of(call(i), 0.4) == "policy"}, (
        "a larger share only adds"
    )


def write_log(path: Path, n: int, *, shift: float = 1.0) -> None:
    rng = np.random.default_rng(6)
    with path.open("w") as file:
        for i in range(n):
            arm = "policy" if i % 3 == 0 else "fcfs"
            tokens = int(np.ceil(rng.lognormal(4, 1) * (shift if arm == "policy" else 1.0)))
            fine = i % 97 != 5
            row = {
                "request_id": i,
                "arm": arm,
                "status": "completed" if fine else "failed",
                "output_tokens": tokens if fine else 0,
                "predicted_tokens": tokens,
                "e2el_ms": 20.0 * tokens,
                "finish_reason": "stop" if fine else "",
                "finish_s": 1.6e9 + i,
            }
            file.write(json.dumps(row) + "\n")


def test_the_report_says_down_to_what_no_difference_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "log.jsonl", 1700)
    assert [sum(each.num_requests) for each in looks(tmp_path / "log.jsonl")] == [200, 400, 800, 1600]
    assert run("quality", "report", tmp_path / "log.jsonl") == 0
    assert "no difference seen in answer lengths down to" in capsys.readouterr().out.replace("\n", " ")
    assert run("quality", "report", tmp_path / "log.jsonl", "--json") == 0
    entries = json.loads(capsys.readouterr().out)["looks"]
    assert entries[-1]["policy_requests"] == 534 and entries[-1]["findings"] == []


def test_the_report_ends_with_1_where_answers_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "log.jsonl", 1700, shift=2.0)
    assert run("quality", "report", tmp_path / "log.jsonl", "--json") == 1
    assert "answer lengths differ" in json.loads(capsys.readouterr().out)["looks"][-1]["findings"][0]


def test_logs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    write_log(tmp_path / "short.jsonl", 150)
    with pytest.raises(
        InputError, match=r"has 50 requests of arm policy, 100 requests of arm fcfs; .* needs 200"
    ):
        looks(tmp_path / "short.jsonl")
    (tmp_path / "other.csv").write_text("request_id,arrival_s\n1,2\n")
    with pytest.raises(InputError, match="has no column arm"):
        looks(tmp_path / "other.csv")
    with pytest.raises(InputError, match="alpha: 2 is not between 0 and 1"):
        looks(tmp_path / "short.jsonl", 2.0)


def test_a_layer_serves_both_arms_and_ends_the_policys_share_where_the_guard_says_so() -> None:
    async def test(up: Up, fake: Fake) -> None:
        import asyncio

        answers = await asyncio.gather(*(up.ask(f"prompt {i} 2", user=f"u{i}") for i in range(60)))
        assert all(status == 200 for status, _ in answers)
        guard = up.layer.guard
        assert guard is not None and min(rows.total for rows in guard.arms.values()) > 10
        for i in range(FIRST_LOOK):
            guard.answered("policy", 5, 9.0 + i % 3, 5, "stop")
            guard.answered("fcfs", 5, 1.0 + i % 3, 5, "stop")
        while not guard.reason:
            await up.ask("prompt 1")
        await up.ask("prompt 1")
        assert up.layer.share == 0.0
        async with up.session.get(f"{up.url}/metrics") as response:
            assert "seqsched_policy_share 0.0" in await response.text()

    with_fakes(test, share=0.5, guard=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--share", "1.5"], "share: 1.5 is not between 0 and 1"),
        (["--mirror", "1.5"], "mirror: 1.5 is not between 0 and 1"),
        (["--guard"], "guard: share 1 leaves nothing to compare"),
        (["--share", "0.5", "--act", "tell"], "share: needs --act hold"),
    ],
)
def test_shares_that_compare_nothing_are_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("serve", "--upstream", "http://localhost:1", *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
