"""What a pilot says of a log comes true when the other policy runs, on a server that it cannot see."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cli import main
from sim.scenario.scenario import scenario
from sim.simulation import simulate
from sim.studies.log_fit import IterationModel
from sim.studies.log_start import MOST_CONTEXT
from sim.studies.pilot import pilot, range_about
from sim.studies.slot_log import enough_blocks, read, server_of, slots_used, with_slots
from traces.errors import InputError
from traces.slo_classes import with_slo_classes
from traces.trace import Trace

SHORTEST = "continuous:order=shortest-predicted"
PERFECT = "perfect"
SERVER: Any = {"profile": "h200-vicuna-7b", "set": ["scale=8"], "predictor": "trace"}
"""Eight times as slow as a fast one."""


def requests(n: int, seed: int = 0) -> Trace:
    rng = np.random.default_rng(seed)
    output = np.maximum(2, np.rint(np.exp(4.6 + 0.8 * rng.normal(size=n)))).astype(np.int64)
    predicted = np.maximum(1, np.rint(output * np.exp(0.5 * rng.normal(size=n)))).astype(np.int64)
    prompt = np.maximum(5, np.rint(np.exp(4 + 0.5 * rng.normal(size=n)))).astype(np.int64)
    return Trace("log", np.arange(n), prompt, output, predicted_tokens=predicted)


def served(trace: Trace, policy: str, slots: int, rate: float) -> Any:
    """What a server of so many slots does with them."""
    return simulate(trace, policy=with_slots(policy, slots), request_rate=rate, **SERVER)


def logged(path: Path, trace: Trace, policy: str, slots: int, rate: float, **leave_out: bool) -> Path:
    """The log of that, in the columns of `seqsched serve`."""
    result = served(trace, policy, slots, rate).requests
    assert trace.predicted_tokens is not None
    with path.open("w") as file:
        for i, row in enumerate(result.itertuples()):
            values = {
                "request_id": i,
                "arrival_s": 1.7e9 + row.arrival_s,
                "scheduled_s": 1.7e9 + row.scheduled_s,
                "prompt_tokens": int(trace.prompt_tokens[i]),
                "output_tokens": int(trace.output_tokens[i]),
                "predicted_tokens": int(trace.predicted_tokens[i]),
                "ttft_ms": row.ttft_ms,
                "tpot_ms": (row.e2el_ms - row.ttft_ms) / (int(trace.output_tokens[i]) - 1),
                "e2el_ms": row.e2el_ms,
                "status": "completed",
            }
            file.write(json.dumps({k: v for k, v in values.items() if k not in leave_out}) + "\n")
    return path


def test_it_says_who_is_within_their_own_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bounds that are in the log are kept, and the order that goes by them meets more."""
    trace = requests(80)
    log = logged(tmp_path / "log.jsonl", trace, "continuous", 4, np.inf)
    plain = [json.loads(line) for line in log.read_text().splitlines()]
    median_ms = float(np.median([row["e2el_ms"] for row in plain]))
    stated = with_slo_classes(trace, f"chat:share=50%,e2el={median_ms};batch:e2el=10h", 1).slo_columns
    bounded = [{**row, **{name: values[k] for name, values in stated.items()}} for k, row in enumerate(plain)]
    log.write_text("".join(json.dumps(row) + "\n" for row in bounded))
    found = pilot(log, policies=("continuous", "continuous:order=deadline"), replicates=2)
    assert found.slo_attainment is not None
    measured, replayed = found.slo_attainment["measured"], found.slo_attainment["replayed"]
    is_met = np.array([row["e2el_ms"] <= row["e2el_slo_ms"] for row in bounded])
    chats = np.array([row["slo_class"] == "chat" for row in bounded])
    assert measured == pytest.approx({"all": is_met.mean(), "batch": 1.0, "chat": is_met[chats].mean()})
    assert replayed["chat"] == pytest.approx(measured["chat"], abs=0.1)
    by_deadline = next(row for row in found.rows if row.point.policy.endswith("deadline"))
    assert by_deadline.slo_attainment is not None
    assert by_deadline.slo_attainment["chat"] > replayed["chat"] + 0.1
    assert found.to_json()["slo_attainment"]["measured"] == measured
    main(["pilot", str(log), "--policies", "continuous:order=deadline", "--replicates", "2"])
    said = f"within their own bounds: measured {measured['all']:.1%} (batch 100.0%,"
    assert said in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rate"), [(80, np.inf), (300, 1.4)])
def test_gains_come_true(tmp_path: Path, n: int, rate: float) -> None:
    trace = requests(n)
    log = logged(tmp_path / "log.jsonl", trace, "continuous", 4, rate)
    found = pilot(log, policies=("continuous", SHORTEST), replicates=12)
    assert found.slots == 4 and found.requests == n
    for key, measured in found.measured.items():
        assert found.replayed[key] == pytest.approx(measured, rel=0.06), key
    row = next(r for r in found.rows if r.point.policy == SHORTEST and r.point.predictor == "trace")
    first, then = (served(trace, policy, 4, rate).summary for policy in ("continuous", SHORTEST))
    true = 1 - then["mean_e2el_ms"] / first["mean_e2el_ms"]
    assert true > 0.15 and row.gain["mean_e2el_ms"] == pytest.approx(true, rel=0.15)
    low, high = row.between["mean_e2el_ms"]
    others = [
        1
        - served(other, SHORTEST, 4, rate).summary["mean_e2el_ms"]
        / served(other, "continuous", 4, rate).summary["mean_e2el_ms"]
        for other in (requests(n, seed) for seed in range(1, 9))
    ]
    assert low < high and sum(low - 0.05 <= other <= high + 0.05 for other in others) >= 5
    perfect = next(r for r in found.rows if r.point.predictor == PERFECT)
    assert perfect.gain["mean_e2el_ms"] >= row.gain["mean_e2el_ms"]


def test_more_slots_and_what_ran(tmp_path: Path) -> None:
    log = logged(tmp_path / "log.jsonl", requests(80), SHORTEST, 4, np.inf)
    found = pilot(log, policies="continuous;" + SHORTEST, ran=SHORTEST, slots=(4, 8), replicates=2)
    assert found.ran.policy == SHORTEST
    by_point = {(r.point.policy, r.point.slots, r.point.predictor): r for r in found.rows}
    assert by_point["continuous", 4, "none"].gain["mean_e2el_ms"] < 0
    assert by_point["continuous", 8, "none"].gain["mean_e2el_ms"] > 0.2
    assert found.rows and all(r.gain["mean_e2el_ms"] for r in found.rows)
    assert any("more slots than the 4 of the log" in note for note in found.notes)
    json.dumps(found.to_json(), allow_nan=False)


def test_without_times_of_sending_the_policy_that_ran_is_believed(tmp_path: Path) -> None:
    log = logged(tmp_path / "log.jsonl", requests(80), "continuous", 4, np.inf, scheduled_s=True)
    found = pilot(log, policies=(SHORTEST,), slots=(4,), replicates=2)
    assert found.replayed["mean_e2el_ms"] == pytest.approx(found.measured["mean_e2el_ms"], rel=0.1)
    assert any("does not say when requests were sent on" in note for note in found.notes)


def test_a_server_that_queues_by_itself(tmp_path: Path) -> None:
    trace = requests(80)
    log = logged(tmp_path / "log.jsonl", trace, "continuous", 4, np.inf)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    at_once = "\n".join(json.dumps({**row, "scheduled_s": row["arrival_s"]}) for row in rows)
    log.write_text(at_once)
    assert pilot(log, policies=(SHORTEST,), replicates=2).slots == 80
    found = pilot(log, policies=(SHORTEST,), ran_slots=4, replicates=2)
    assert found.slots == 4 and any("80 requests were with the server" in note for note in found.notes)
    for key, measured in found.measured.items():
        assert found.replayed[key] == pytest.approx(measured, rel=0.1), key
    row = next(r for r in found.rows if r.point.predictor == "trace")
    first, then = (served(trace, policy, 4, np.inf).summary for policy in ("continuous", SHORTEST))
    true = 1 - then["mean_e2el_ms"] / first["mean_e2el_ms"]
    assert row.gain["mean_e2el_ms"] == pytest.approx(true, rel=0.15)


def test_who_comes_while_slots_are_free_is_sent_at_once(tmp_path: Path) -> None:
    """A layer sends the first ones whatever is predicted of them; a server that queues picks the shortest."""
    trace = requests(60)
    trace = trace.select(np.concatenate([np.argsort(-trace.output_tokens)[:4], np.arange(4, 60)]))
    log = logged(tmp_path / "log.jsonl", trace, "continuous", 4, np.inf)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    at_once = [json.dumps({**row, "scheduled_s": row["arrival_s"]}) for row in rows]
    (queued := tmp_path / "queued.jsonl").write_text("\n".join(at_once))
    held_gain, queued_gain = (
        next(r.gain["mean_e2el_ms"] for r in found.rows if r.point.predictor == "trace")
        for found in (
            pilot(log, policies=(SHORTEST,), replicates=2),
            pilot(queued, policies=(SHORTEST,), ran_slots=4, replicates=2),
        )
    )
    assert 0.05 < held_gain < queued_gain - 0.02


def test_a_server_that_queues_begins_with_whom_it_knows(tmp_path: Path) -> None:
    """Requests that it began while it had slots left go first in each replay, however long they are."""
    trace = requests(60)
    longest = np.argsort(-trace.output_tokens)[:3]
    trace = trace.select(np.concatenate([longest, np.setdiff1d(np.arange(60), longest)]))
    profile = IterationModel((1.0, 4.0)).profile(np.array([6e-3, 25e-3, 1e-6, 4.5e-3, 1e-6]))
    gains = []
    for num_first in (1, 3):
        late = replace(trace, arrival_s=np.where(np.arange(60) < num_first, 0.0, 0.05))
        world = scenario(late, profile=profile, kv_blocks=enough_blocks(late), predictor="trace")
        first, then = (
            world.run(with_slots(f"{policy}{sign}async_scheduling=off", 4)).columns
            for policy, sign in (("continuous", ":"), (SHORTEST, ","))
        )
        came_ms = 1e3 * late.arrival_s  # type: ignore[operator]
        frame = {"request_id": range(60), "arrival_s": [0.0] * 60, "scheduled_s": [0.0] * 60}
        frame |= {key: getattr(late, key) for key in ("prompt_tokens", "output_tokens", "predicted_tokens")}
        frame |= {key: first[key] + came_ms for key in ("ttft_ms", "e2el_ms")}
        (log := tmp_path / f"{num_first}.csv").write_text(
            pd.DataFrame(frame | {"tpot_ms": first["tpot_ms"]}).to_csv(index=False)
        )
        found = pilot(log, policies=(SHORTEST,), ran_slots=4, replicates=2)
        gains.append(next(r.gain["mean_e2el_ms"] for r in found.rows if r.point.predictor == "trace"))
        true = 1 - (then["e2el_ms"] + came_ms).mean() / (first["e2el_ms"] + came_ms).mean()
        assert gains[-1] == pytest.approx(true, rel=0.1)
    assert gains[1] < gains[0] - 0.02


def test_without_predictions_perfect_ones_are_tried(tmp_path: Path) -> None:
    log = logged(tmp_path / "log.jsonl", requests(60), "continuous", 4, np.inf, predicted_tokens=True)
    found = pilot(log, policies=("continuous", SHORTEST), replicates=2)
    assert [row.point.predictor for row in found.rows] == ["perfect"] and found.error is None
    assert any("no predictions in the log" in note for note in found.notes)


def test_what_is_not_replayed_is_said(tmp_path: Path) -> None:
    log = logged(tmp_path / "log.jsonl", requests(40), "continuous", 4, 1.0)
    plain = pilot(log, policies=("continuous",), replicates=2)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for k, row in enumerate(rows):
        row |= {"request_id": f"r{k}", "prefix_id": "system", "prefix_tokens": 4}
        row |= {"session_id": "s", "waits_for": f"r{k - 1}" if k % 2 else None}
        row |= {"deadline_s": row["arrival_s"] + 1e4}
    log.write_text("\n".join(map(json.dumps, rows)))
    found = pilot(log, policies=("continuous",), replicates=2)
    said = "\n".join(set(found.notes) - set(plain.notes))
    assert "20 requests wait for others (waits_for): they come at the times of the log" in said
    assert "the log has deadlines, which are not replayed" in said
    assert re.search(r"shared prefixes \(\d+% of the prompt tokens can be found again\), which are not", said)
    log.write_text("\n".join(json.dumps(row | {"prefix_id": f"own {k}"}) for k, row in enumerate(rows)))
    apart = pilot(log, policies=("continuous",), replicates=2).notes
    assert not any("shared prefixes" in note for note in apart)


def test_an_order_by_deadlines_without_any_is_named(tmp_path: Path) -> None:
    policies = ("continuous", "continuous:order=deadline")
    log = logged(tmp_path / "log.jsonl", requests(40), "continuous", 4, 1.0)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for bounds, is_said in (({}, True), ({"ttft_slo_ms": 500.0}, False)):
        log.write_text("\n".join(json.dumps(row | bounds) for row in rows))
        notes = pilot(log, policies=policies, replicates=2).notes
        assert any(note.startswith("order=deadline: no request of log") for note in notes) == is_said


def test_another_machine_beside_the_server(tmp_path: Path) -> None:
    log = logged(tmp_path / "log.jsonl", requests(60), "continuous", 4, np.inf)
    found = pilot(log, policies=("continuous",), profiles=("h200-vicuna-7b",), replicates=2)
    (fast,) = [row for row in found.rows if row.point.machine == "h200-vicuna-7b"]
    assert fast.gain["mean_e2el_ms"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policies": "continuous:order=best"}, "order"),
        ({"slots": (0,)}, "slots: 0 must be at least 1"),
        ({"ran_slots": 0}, "ran_slots: 0 must be at least 1"),
        ({"replicates": 1}, "replicates: 1 must be at least 2"),
        ({"profiles": ("nothing",)}, "nothing"),
    ],
)
def test_bad_settings_are_one_line(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    log = logged(tmp_path / "log.jsonl", requests(40), "continuous", 4, np.inf)
    with pytest.raises(InputError) as error:
        pilot(log, **arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_machine_that_cannot_serve_them_is_refused(tmp_path: Path) -> None:
    trace = requests(40)
    log = logged(tmp_path / "log.jsonl", trace, "continuous", 4, np.inf)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows[7]["prompt_tokens"] = 900_000
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="cannot be served under continuous on h200-vicuna-7b"):
        pilot(log, policies=("continuous",), profiles=("h200-vicuna-7b",), replicates=2)


def test_a_request_sent_after_its_first_token_is_refused(tmp_path: Path) -> None:
    log = logged(tmp_path / "log.jsonl", requests(40), "continuous", 4, np.inf)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows[3]["scheduled_s"] += 1e4
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="line 4, scheduled_s: is after the first token"):
        pilot(log)


@pytest.mark.parametrize("seed", range(6))
def test_contexts_are_not_blamed_for_what_sequences_take(tmp_path: Path, seed: int) -> None:
    """Of a busy server that was slower at times."""
    log = logged(tmp_path / "log.jsonl", requests(60, seed), "continuous", 4, np.inf)
    rows, rng = [json.loads(line) for line in log.read_text().splitlines()], np.random.default_rng(seed)
    for row in rows:
        decoding = (row["e2el_ms"] - row["ttft_ms"]) * float(rng.lognormal(0.0, 0.2))
        row |= {"e2el_ms": row["ttft_ms"] + decoding, "tpot_ms": decoding / (row["output_tokens"] - 1)}
    log.write_text("\n".join(map(json.dumps, rows)))
    cost = server_of(read(log, None), log, "continuous", 4).step_cost
    assert cost.decode_per_context_s <= MOST_CONTEXT * cost.decode_base.seconds[0] * (1 + 1e-9)


@given(st.floats(-2, 1), st.lists(st.floats(-2, 1), min_size=2, max_size=40))
def test_a_gain_is_within_its_range_with_nine_of_ten_that_are_drawn(gain: float, drawn: list[float]) -> None:
    low, high = range_about(gain, drawn)
    assert low <= gain <= high
    assert sum(low <= each <= high for each in drawn) >= 0.9 * len(drawn)
    inside = max(abs(low - gain), abs(high - gain))
    assert sum(abs(each - gain) < inside for each in drawn) < 0.9 * len(drawn) + 1


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([0.5, 1.4, np.inf]),
    failing=st.floats(0, 0.6),
    slower=st.floats(0, 1.5),
)
def test_estimates_are_within_their_ranges_on_logs_full_of_faults(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rate: float, failing: float, slower: float
) -> None:
    """Requests fail, and a server is slower at times."""
    folder = tmp_path_factory.mktemp("log")
    rng, log = (
        np.random.default_rng(seed),
        logged(folder / "a.jsonl", requests(60, seed), "continuous", 4, rate),
    )
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for row in rows:
        if rng.random() < failing:
            row |= {"status": "failed", "output_tokens": 0}
        decoding = (row["e2el_ms"] - row["ttft_ms"]) * float(np.exp(slower * abs(rng.normal())))
        row |= {"e2el_ms": row["ttft_ms"] + decoding, "tpot_ms": decoding / max(1, row["output_tokens"] - 1)}
    log.write_text("\n".join(map(json.dumps, rows)))
    try:
        found = pilot(log, policies=("continuous", SHORTEST), replicates=5)
    except InputError as error:
        assert "completed requests of several tokens, 20 needed" in str(error)
        return
    for each in found.rows:
        for figure, gain in each.gain.items():
            low, high = each.between[figure]
            assert low <= gain <= high


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20), st.integers(0, 9)), min_size=1, max_size=25)
)
def test_slots_in_use_by_hand(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.csv"
    lines = ["arrival_s,scheduled_s,prompt_tokens,output_tokens,ttft_ms,tpot_ms,e2el_ms"]
    for arrival, lasts, wait in rows:
        first, last = (wait + 0.5) * 1e3, (wait + lasts) * 1e3
        lines.append(f"{arrival},{arrival + wait},10,2,{first},{last - first},{last}")
    path.write_text("\n".join(lines) + "\n")
    spans = [(arrival + wait, arrival + wait + lasts) for arrival, lasts, wait in rows]
    most = max(sum(start <= at < end for start, end in spans) for at, _ in spans)
    assert slots_used(read(path, "s")) == most


def test_slots_are_added_where_they_are_not_said() -> None:
    assert with_slots("continuous", 4) == "continuous:max_num_seqs=4"
    assert with_slots(SHORTEST, 4) == f"{SHORTEST},max_num_seqs=4"
    assert with_slots("continuous:max_num_seqs=2", 4) == "continuous:max_num_seqs=2"
    assert with_slots("vanilla", 4) == "vanilla" and with_slots("continuous", None) == "continuous"
