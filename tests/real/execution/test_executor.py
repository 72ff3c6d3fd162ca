from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the real extra is not installed")

from real.engines.arena import ArenaEngine  # noqa: E402
from real.engines.eager import EagerEngine  # noqa: E402
from real.engines.engine import KvOvercommitted, OutOfDeviceMemory  # noqa: E402
from real.execution.clocks import PacedClock, Stopwatch  # noqa: E402
from sim.schedulers.base import BaseScheduler  # noqa: E402
from sim.work import Drop, PaddedBatch, Perceive, SchedulingError  # noqa: E402
from traces.errors import InputError  # noqa: E402

SEQUENCE = [
    f"sequence:vbs={vbs},fcr={fcr},bin_width=8,group_size=128"
    for vbs, fcr in itertools.product(("table", "memory", "off"), ("on", "off"))
]
NOISY = "noisy:sigma=0.6,round_to=4"
CONTINUOUS = ["continuous", "continuous:order=shortest-predicted,max_num_seqs=16,max_num_batched_tokens=48"]
EVERY_ORDER = [
    "continuous:order=shortest-remaining,admission=predicted,max_num_seqs=16",
    "continuous:order=priority,aging_s=0.5,max_num_seqs=16",
    "continuous:order=fair,max_num_seqs=16,admission=chunk,max_num_batched_tokens=40",
    "continuous:async_scheduling=on,max_num_seqs=8,max_num_batched_tokens=40",
    "continuous:rules=sglang,max_num_seqs=8,chunked_prefill_size=32",
    "continuous:rules=trtllm,max_num_seqs=8,max_num_batched_tokens=40",
]
CASES = [("vanilla", "oracle", e) for e in ("transformers-eager", "cuda-graphs")]
CASES += [(policy, predictor, "transformers-eager") for policy in SEQUENCE for predictor in ("oracle", NOISY)]
CASES += [(SEQUENCE[0], NOISY, "cuda-graphs")]
CASES += [(policy, predictor, "cuda-graphs") for policy in CONTINUOUS for predictor in ("oracle", NOISY)]
CASES += [(policy, NOISY, "cuda-graphs") for policy in EVERY_ORDER]


@pytest.mark.parametrize(("policy", "predictor", "engine"), CASES)
def test_decisions_and_counts_are_those_of_the_simulator(policy, predictor, engine, make_scenario, serve):
    scenario = make_scenario(predictor=predictor)
    measured, _ = serve(scenario, policy, engine)
    predicted = scenario.run(policy, log=True)
    assert measured.result.decisions == predicted.decisions
    assert measured.result.summary.keys() == predicted.summary.keys()
    for key in (
        "completed",
        "iterations",
        "average_length",
        "failure_ratio",
        "kv_peak_fraction",
        "preemptions",
    ):
        assert measured.result.summary[key] == predicted.summary[key]
    lengths = scenario.trace.output_tokens
    assert [len(measured.answers[i]) for i in range(len(lengths))] == lengths.tolist()
    assert not measured.incidents


def test_who_is_paused_keeps_its_memory_and_its_answer(make_scenario, serve, alone):
    scenario = make_scenario(predictor=NOISY, kv_blocks=7)
    policy = "continuous:order=shortest-remaining,max_num_seqs=16"
    measured, prompts = serve(scenario, policy, "cuda-graphs")
    assert measured.result.decisions == scenario.run(policy, log=True).decisions
    paused = {i for decision in measured.result.decisions for i in decision.get("paused", ())}
    assert paused
    for i in sorted(paused)[:5]:
        assert measured.answers[i] == alone(prompts[i], len(measured.answers[i]))


@pytest.mark.parametrize(
    ("policy", "engine"),
    [
        ("vanilla", "transformers-eager"),
        ("sequence:vbs=memory,fcr=on,bin_width=8", "transformers-eager"),
        ("sequence:vbs=memory,fcr=on,bin_width=8", "cuda-graphs"),
        ("sequence:vbs=memory,bins=least-time,bin_width=8,requeue=on", "cuda-graphs"),
        ("continuous:max_num_seqs=8,max_num_batched_tokens=24", "cuda-graphs"),
    ],
)
def test_a_policy_changes_no_answer(policy, engine, make_scenario, serve, alone):
    scenario = make_scenario(30, predictor=NOISY + ",charge=off", kv_blocks=8)
    measured, prompts = serve(scenario, policy, engine)
    lengths = scenario.trace.output_tokens.tolist()
    assert measured.answers == {i: alone(p, lengths[i]) for i, p in enumerate(prompts)}
    summary = measured.result.summary
    assert (summary["failure_ratio"] > 0) == policy.startswith("sequence")
    assert (summary["preemptions"] > 0) == policy.startswith("continuous")


def test_times_are_in_order_and_labels_say_what_ran(make_scenario, serve, loaded):
    scenario = make_scenario(40, request_rate=400.0)
    result = serve(scenario, "vanilla")[0].result
    c = result.columns
    assert (c["arrival_s"] <= c["scheduled_s"]).all()
    assert (c["scheduled_s"] < c["first_token_s"]).all()
    assert (c["first_token_s"] <= c["finish_s"]).all()
    assert c["arrival_s"].max() > 0.05
    assert result.summary["profile"] == f"transformers-eager on {loaded.label}"
    assert result.summary["provenance"] == "real run"
    starts = [b.start_s for b in result.batches]
    assert all(b.end_s <= start for b, start in zip(result.batches, starts[1:], strict=False))


def test_requests_held_back_arrive_when_a_place_falls_free(make_scenario, serve):
    scenario = make_scenario(30, max_concurrency=4)
    summary = serve(scenario, "vanilla")[0].result.summary
    assert summary["completed"] == 30
    assert summary["max_concurrent_requests"] == 4


@pytest.mark.parametrize("bound", [None, 1])
def test_a_scheduler_that_loses_requests_is_told_apart_from_one_that_waits(bound, make_scenario, serve):
    class Losing:
        wake_at = upper_quantile = None

        def __init__(self, limits):
            pass

        def submit(self, request, now):
            pass

        def next_work(self, now):
            return None

    with pytest.raises(SchedulingError, match="requests unserved"):
        serve(make_scenario(3, max_concurrency=bound), Losing)


@pytest.mark.parametrize("work", ["drop", "ask", "short", "wake", "wake at once"])
def test_a_scheduler_that_makes_no_progress_is_named(work, make_scenario, serve):
    class Stuck(BaseScheduler):
        def __init__(self, limits):
            self.waiting = []

        def submit(self, request, now):
            self.waiting.append(request)

        def next_work(self, now):
            rows = tuple(self.waiting[:2])
            self.wake_at = {"wake": now + 1e-9, "wake at once": now}.get(work)
            works = {"drop": Drop((), "rejected: x"), "ask": Perceive(rows), "short": PaddedBatch(rows, 1)}
            return works.get(work)

        def record(self, work, outcome, now):
            pass

    scenario = make_scenario(2, predictor="oracle" if work != "ask" else "exact:charge=off")
    scenario.trace.output_tokens[:] = 20
    with pytest.raises(SchedulingError, match=r"^Stuck makes no progress: in [0-9]+ decisions"):
        serve(scenario, Stuck)


def test_an_error_of_a_policy_names_method_and_line(make_scenario, serve):
    class Raises(BaseScheduler):
        def __init__(self, limits):
            pass

        def submit(self, request, now):
            raise SystemExit(0)

        def next_work(self, now):
            return None

    with pytest.raises(
        InputError, match=r"^policy Raises.submit raised SystemExit: 0 \(test_executor.py, line"
    ):
        serve(make_scenario(2), Raises)


def test_what_can_never_fit_is_rejected_and_nothing_is_lost(make_scenario, serve):
    scenario = make_scenario(40, kv_blocks=3)
    result = serve(scenario, "sequence:bin_width=8")[0].result
    too_long = scenario.trace.prompt_tokens + scenario.max_new_tokens > 48
    assert 0 < too_long.sum() < 40
    assert (result.columns["status"] == np.where(too_long, "rejected", "completed")).all()


def test_counting_on_more_memory_than_was_allocated_is_refused(make_scenario, make_engine, loaded):
    from real.execution.run import run

    with pytest.raises(KvOvercommitted, match="counts on 4096 KV tokens, 160 are allocated"):
        run(make_scenario(5), "vanilla", make_engine("transformers-eager", 160), loaded, [])


def test_slower_memory_is_simulated_only(make_scenario, serve):
    with pytest.raises(InputError, match="kv_tier: keeping KV blocks in slower memory is simulated only"):
        serve(make_scenario(5, kv_tier="cpu:1GiB@1GB/s"), "continuous:prefix_caching=on", "cuda-graphs")


def test_memory_that_is_kept_between_turns_is_simulated_only(make_scenario, serve):
    with pytest.raises(InputError, match="keeping memory between the turns of a session is simulated only"):
        serve(make_scenario(5), "continuous:prefix_caching=on,waits=preserve", "cuda-graphs")


def test_continuous_batching_needs_an_engine_that_mixes(make_scenario, serve):
    with pytest.raises(SchedulingError, match="padded batches only"):
        serve(make_scenario(5), "continuous")


def short_of_memory(monkeypatch, most_rows):
    prefill = EagerEngine.prefill

    def limited(self, prompts, token_limit):
        if len(prompts) > most_rows:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return prefill(self, prompts, token_limit)

    monkeypatch.setattr(EagerEngine, "prefill", limited)


@pytest.mark.parametrize(
    "policy", ["vanilla", "sequence:bin_width=8", "sequence:vbs=off,batch_size=8,requeue=on"]
)
def test_when_the_device_runs_out_of_memory_batches_are_halved_and_nothing_is_lost(
    policy, make_scenario, serve, alone, monkeypatch
):
    short_of_memory(monkeypatch, 5)
    scenario = make_scenario(40, predictor=NOISY)
    measured, prompts = serve(scenario, policy)
    assert measured.result.summary["completed"] == 40
    lengths = scenario.trace.output_tokens.tolist()
    assert measured.answers == {i: alone(p, lengths[i]) for i, p in enumerate(prompts)}
    assert max(len(b.request_ids) for b in measured.result.batches) <= 5
    assert measured.incidents[0].startswith("out of memory in a ")
    assert measured.result.decisions != scenario.run(policy).decisions


def test_a_request_that_does_not_fit_even_alone_ends_with_a_reason(make_scenario, serve, monkeypatch):
    short_of_memory(monkeypatch, 0)
    result = serve(make_scenario(6), "vanilla")[0].result
    assert set(result.columns["reason"]) == {"rejected: the device ran out of memory running it alone"}


def test_asking_for_a_length_alone_names_the_request_that_memory_failed(make_scenario, serve, monkeypatch):
    short_of_memory(monkeypatch, 0)
    with pytest.raises(OutOfDeviceMemory, match="length of request 0 alone"):
        serve(make_scenario(4, predictor=NOISY), "sequence")


def test_an_iteration_too_large_for_the_device_is_halved(make_scenario, serve, alone, monkeypatch):
    iterate = ArenaEngine.iterate

    def limited(self, parts):
        if sum(len(part.tokens) for part in parts) > 10:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return iterate(self, parts)

    monkeypatch.setattr(ArenaEngine, "iterate", limited)
    scenario = make_scenario(10)
    measured, prompts = serve(scenario, "continuous", "cuda-graphs")
    lengths = scenario.trace.output_tokens.tolist()
    assert measured.answers == {i: alone(p, lengths[i]) for i, p in enumerate(prompts)}
    assert "run in two halves" in measured.incidents[0]


@pytest.mark.parametrize(
    ("policy", "engine"), [("vanilla", "transformers-eager"), ("continuous", "cuda-graphs")]
)
def test_where_the_model_decides_an_answer_ends_with_its_end_token(
    policy, engine, make_scenario, serve, alone, loaded, monkeypatch
):
    enders = frozenset(range(40))
    monkeypatch.setitem(vars(loaded), "eos_tokens", enders)
    scenario = make_scenario(16)
    measured, prompts = serve(scenario, policy, engine, lengths="model")
    for i, prompt in enumerate(prompts):
        free = alone(prompt, scenario.max_new_tokens)
        end = next((k for k, token in enumerate(free, start=1) if token in enders), len(free))
        assert measured.answers[i] == free[:end]
        assert measured.output_tokens[i] == end
    again = scenario.run(policy, output_tokens=measured.output_tokens, log=True)
    assert again.decisions == measured.result.decisions


def test_a_stopwatch_goes_only_inside_its_blocks():
    now = iter([10.0, 11.0, 13.0, 20.0, 21.5])
    watch = Stopwatch(lambda: next(now))
    with watch.running():
        assert watch() == 1.0
    assert watch() == 3.0
    with watch.running():
        pass
    assert watch() == 4.5


def test_a_paced_clock_counts_a_slow_stretch_as_a_usual_one_would_last():
    class Processor:
        now, slowness = 0.0, 1.0

        def work(self, seconds):
            self.now += seconds * self.slowness

    processor = Processor()
    clock = PacedClock(beat=lambda: processor.work(0.001), clock=lambda: processor.now)
    processor.work(0.06)
    assert clock() == pytest.approx(0.06)
    processor.slowness = 3.0
    processor.work(0.06)  # not noticed until it is over
    assert clock() == pytest.approx(0.06 + 0.18)
    processor.work(0.06)
    assert clock() == pytest.approx(0.06 + 0.18 + 0.06)
    processor.work(0.01)
    assert clock() == pytest.approx(0.06 + 0.18 + 0.07)
    assert clock.spread == pytest.approx((0.001, 0.001))


def test_a_policy_that_runs_a_request_twice_is_caught(make_scenario, serve):
    with pytest.raises(SchedulingError, match="run again after it had ended"):
        serve(make_scenario(4), Twice)


class Twice:
    """Runs everything again for ever."""

    wake_at = upper_quantile = None

    def __init__(self, limits):
        self.requests = []

    def submit(self, request, now):
        self.requests.append(request)

    def next_work(self, now):
        from sim.work import PaddedBatch

        return PaddedBatch(tuple(self.requests), 28)

    def record(self, work, outcome, now):
        assert len(outcome.finished) == len(self.requests)
