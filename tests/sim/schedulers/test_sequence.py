"""A day of the sequence scheduler: groups, perception, failures, priorities, waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sim.request import Request
from sim.schedulers import OpenSequenceScheduler, SequenceScheduler
from sim.work import Limits, Outcome, PaddedBatch, Perceive, Prediction

Requests = Callable[..., list[Request]]
Run = Callable[..., Any]


def ids(numbers: range) -> list[int]:
    return list(numbers)


# Groups


def test_a_group_is_what_waits_up_to_group_size(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    # Shorter answers later: sorting within a group shows, sorting across groups would show as well.
    predicted = [400, 300, 200, 100, 90, 80, 70]
    scheduler = SequenceScheduler(limits, group_size=3, vbs="off")
    log = run_scheduler(scheduler, requests(predicted))
    assert [rows for rows, _ in log.batches] == [[2, 1, 0], [5, 4, 3], [6]]


def test_who_arrives_during_a_group_waits_for_the_next(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([100, 300, 50, 60], arrival_s=[0, 0, 5, 150])
    log = run_scheduler(SequenceScheduler(limits, vbs="off", batch_size=1), asked)
    assert [rows for rows, _ in log.batches] == [[0], [1], [2], [3]]
    assert log.starts == [0, 100, 400, 450]


def test_groups_go_by_order_of_arrival(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked = requests([50] * 10, arrival_s=[9 - i for i in range(10)])
    log = run_scheduler(SequenceScheduler(limits, group_size=4), asked)
    assert [rows for rows, _ in log.batches] == [[9], [8, 7, 6, 5], [4, 3, 2, 1], [0]]


def test_never_idle_while_a_request_waits(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked = requests([3, 40, 77, 12], arrival_s=[0, 0, 1000, 1001])
    log = run_scheduler(SequenceScheduler(limits), asked)
    assert log.starts == [0, 1000, 1077]


@pytest.mark.parametrize("vbs", ["table", "memory", "off"])
@pytest.mark.parametrize("max_wait_s", [0.0, 5.0])
def test_a_limit_by_quantile_stops_batches_and_leaves_bins_alone(
    vbs: str, max_wait_s: float, limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    """20 and 30 tokens are predicted; 90 % of such answers stay below 70 and 41."""
    scheduler: Any = OpenSequenceScheduler if max_wait_s else SequenceScheduler
    made = scheduler(limits, limit="quantile:0.9", vbs=vbs, max_wait_s=max_wait_s)
    assert made.upper_quantile == 0.9
    asked = requests([20, 30])
    for request, upper in zip(asked, (70, 41), strict=True):
        request.predicted_upper_tokens = upper
    assert run_scheduler(made, asked, {0: 60, 1: 30}).batches == [([0, 1], 70)]
    plain = scheduler(limits, vbs=vbs, max_wait_s=max_wait_s)
    edge = 30 if vbs == "off" else 50
    assert run_scheduler(plain, requests([20, 30]), {0: 60, 1: 30}).batches == [([0, 1], edge), ([0], 512)]


def test_a_limit_by_quantile_fits_the_memory(requests: Requests, run_scheduler: Run) -> None:
    """Two rows of a prompt of 10 tokens and 90 that may come are too many for 150 tokens."""
    asked = requests([40, 40], max_new_tokens=100)
    for request in asked:
        request.predicted_upper_tokens = 90
    scheduler = SequenceScheduler(Limits(150), limit="quantile:0.9")
    assert [rows for rows, _ in run_scheduler(scheduler, asked, {0: 40, 1: 40}).batches] == [[0], [1]]


# Perception


def test_perception_in_batches_of_128(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked = requests([None] * 300)
    log = run_scheduler(SequenceScheduler(limits), asked, dict.fromkeys(range(300), 20))
    assert log.perceived == [ids(range(128)), ids(range(128, 256)), ids(range(256, 300))]
    kinds = [type(step.work).__name__ for step in log]
    assert kinds == ["Perceive", "Perceive", "PaddedBatch", "Perceive", "PaddedBatch"]


def test_no_perception_where_lengths_are_known(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    log = run_scheduler(SequenceScheduler(limits), requests([30, None, 20]), {1: 25})
    assert log.perceived == [[1]]
    assert log.batches == [([2, 1, 0], 50)]


def test_perception_keeps_within_the_memory(requests: Requests, run_scheduler: Run) -> None:
    # A question takes 10 + 44 tokens: 9 of them fit into 500.
    limits = Limits(kv_tokens=500, perception_tokens=44)
    log = run_scheduler(
        SequenceScheduler(limits), requests([None] * 20, max_new_tokens=10), dict.fromkeys(range(20), 5)
    )
    assert [len(rows) for rows in log.perceived] == [9, 9, 2]


def test_a_question_that_the_memory_cannot_hold_is_never_asked(
    requests: Requests, run_scheduler: Run
) -> None:
    limits = Limits(kv_tokens=112, perception_tokens=44)
    asked = requests([None], prompt_tokens=90, max_new_tokens=10)
    scheduler = SequenceScheduler(limits)
    log = run_scheduler(scheduler, asked, {0: 5})
    for work in log.works(Perceive):
        assert all(r.prompt_tokens + 44 <= 112 for r in work.requests)
    assert sorted([*log.finished, *log.dropped]) == [0]


# Failures


def test_failures_are_recomputed_at_the_groups_end_in_the_order_in_which_they_failed(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    # Predicted 200, 10, 60, 110; 0, 1 and 3 are longer than their batch's limit.
    asked = requests([200, 10, 60, 110, 500])
    true = {0: 201, 1: 11, 2: 60, 3: 111, 4: 500}
    log = run_scheduler(SequenceScheduler(limits, vbs="off", batch_size=1), asked, true)
    assert log.batches == [
        ([1], 10), ([2], 60), ([3], 110), ([0], 200), ([4], 500), ([1], 512), ([3], 512), ([0], 512),
    ]  # fmt: skip


def test_exactly_those_that_failed_are_recomputed(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    # Sorting turns the order round, which is where the published code picks the wrong requests.
    asked = requests([50 - i for i in range(20)])
    true = {i: 51 if i in (2, 3, 11) else 50 for i in range(20)}
    log = run_scheduler(SequenceScheduler(limits), asked, true)
    assert log.batches == [(ids(range(19, -1, -1)), 50), ([11, 3, 2], 512)]
    assert sorted(log.finished) == ids(range(20))


def test_a_row_that_ends_exactly_at_the_limit_is_finished(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    assert run_scheduler(SequenceScheduler(limits), requests([50, 30]), {0: 50, 1: 50}).batches == [
        ([1, 0], 50)
    ]


def test_failures_go_in_batches_of_batch_size(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked = requests([50] * 40, max_new_tokens=300)
    log = run_scheduler(SequenceScheduler(limits, batch_size=16), asked, dict.fromkeys(range(40), 60))
    assert log.batches[1:] == [(ids(range(16)), 300), (ids(range(16, 32)), 300), (ids(range(32, 40)), 300)]


def test_failures_come_before_the_next_group(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    log = run_scheduler(SequenceScheduler(limits, group_size=2), requests([50] * 4), {0: 99, 2: 99})
    assert log.batches == [([0, 1], 50), ([0], 512), ([2, 3], 50), ([2], 512)]


def test_nothing_fails_without_fcr(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    log = run_scheduler(SequenceScheduler(limits, fcr=False), requests([50, 50]), {0: 500})
    assert log.batches == [([0, 1], 512)]


def test_recomputed_batches_keep_within_the_memory(requests: Requests, run_scheduler: Run) -> None:
    limits = Limits(kv_tokens=3 * 522)
    log = run_scheduler(SequenceScheduler(limits), requests([50] * 8), dict.fromkeys(range(8), 60))
    assert log.batches == [(ids(range(8)), 50), ([0, 1, 2], 512), ([3, 4, 5], 512), ([6, 7], 512)]


# Margin


def test_margin_in_tokens(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked, true = [40, 60], {0: 1, 1: 1}
    assert run_scheduler(SequenceScheduler(limits, margin=11), requests(asked), true).batches == [
        ([0, 1], 100)
    ]
    assert run_scheduler(
        SequenceScheduler(limits, margin=11, vbs="off", batch_size=1), requests(asked), true
    ).batches == [([0], 51), ([1], 71)]


def test_margin_as_a_quantile(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    scheduler = SequenceScheduler(limits, margin=0.9, vbs="off", batch_size=1)
    assert scheduler.upper_quantile == 0.9
    answers = {0: Prediction(40, 130), 1: Prediction(60, 70)}
    log = run_scheduler(scheduler, requests([None, None]), {0: 1, 1: 1}, answers)
    assert log.batches == [([1], 70), ([0], 130)]
    assert SequenceScheduler(limits, margin=20).upper_quantile is None


# Priority


def test_important_requests_are_batched_first(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked = requests([400, 30, 300, 500], priority=[0, 0, -1, -2])
    log = run_scheduler(SequenceScheduler(limits), asked)
    assert [rows for rows, _ in log.batches] == [[3], [2], [0, 1]]


def test_equal_priorities_are_not_important(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    log = run_scheduler(SequenceScheduler(limits), requests([40, 30], priority=7))
    assert log.batches == [([1, 0], 50)]


def test_below_the_largest_number_seen_is_important(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    log = run_scheduler(SequenceScheduler(limits), requests([40, 30, 20], priority=[9, 0, 9]))
    assert [rows for rows, _ in log.batches] == [[1], [2, 0]]


def test_the_important_overtake_a_group_in_progress(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([100, 200, 300, 20], arrival_s=[0, 0, 0, 5], priority=[0, 0, 0, -1])
    log = run_scheduler(SequenceScheduler(limits, vbs="off", batch_size=1), asked)
    assert [rows for rows, _ in log.batches] == [[0], [3], [1], [2]]


def test_the_important_overtake_failures(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked = requests([50, 60], arrival_s=[0, 5], priority=[0, -1])
    log = run_scheduler(SequenceScheduler(limits), asked, {0: 70, 1: 60})
    assert log.batches == [([0], 50), ([1], 100), ([0], 512)]


def test_the_important_overtake_a_full_group_that_is_being_perceived(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([None] * 4 + [30], arrival_s=[0, 0, 0, 0, 0.5], priority=[0, 0, 0, 0, -1])
    scheduler = SequenceScheduler(limits, group_size=4, perceive_batch=2)
    log = run_scheduler(scheduler, asked, dict.fromkeys(range(4), 300))
    assert log.batches[0][0] == [4]


def test_an_important_failure_does_not_wait_for_the_groups_end(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([50, 100, 200], priority=[-1, 0, 0])
    log = run_scheduler(SequenceScheduler(limits, vbs="off", batch_size=1), asked, {0: 60})
    assert [rows for rows, _ in log.batches] == [[0], [0], [1], [2]]


@pytest.mark.parametrize("vbs", ["table", "off"])
def test_the_important_do_not_wait_for_a_bin_to_fill(
    vbs: str, limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([40, 400], priority=[0, -1])
    log = run_scheduler(OpenSequenceScheduler(limits, max_wait_s=1000, vbs=vbs, batch_size=2), asked)
    assert log.batches[0][0][-1] == 1
    assert log.starts[0] == 0


def test_important_by_a_positive_number_goes_first_in_its_bin(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([300] * 4, priority=[5, 5, 5, 1])
    log = run_scheduler(OpenSequenceScheduler(limits, max_wait_s=1000, batch_size=2), asked)
    assert 3 in log.batches[0][0]


# Waiting


def test_a_batch_leaves_when_it_is_full(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked = requests([300] * 5, arrival_s=[0, 1, 2, 3, 4])
    log = run_scheduler(OpenSequenceScheduler(limits, max_wait_s=1000, batch_size=4), asked)
    assert log.batches[0] == ([0, 1, 2, 3], 300)
    assert log.starts[0] == 3


@pytest.mark.parametrize("vbs", ["table", "memory", "off"])
def test_a_batch_leaves_when_its_oldest_has_waited(
    vbs: str, limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([100, 80], arrival_s=[2, 9])
    log = run_scheduler(OpenSequenceScheduler(limits, max_wait_s=10, vbs=vbs), asked)
    assert log.batches == [([1, 0], 100)]
    assert log.starts == [12]


def test_bins_wait_apart(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked = requests([5, 100], arrival_s=[0, 3])
    log = run_scheduler(OpenSequenceScheduler(limits, max_wait_s=10), asked)
    assert list(zip(log.batches, log.starts, strict=True)) == [(([0], 50), 10), (([1], 100), 15)]


def test_wake_at_is_when_the_oldest_has_waited(limits: Limits, requests: Requests) -> None:
    scheduler = OpenSequenceScheduler(limits, max_wait_s=10)
    assert scheduler.next_work(0.0) is None
    assert scheduler.wake_at is None
    early, late = requests([400, 40], arrival_s=[1.0, 2.0])
    scheduler.submit(early, 1.0)
    scheduler.submit(late, 2.0)
    assert scheduler.next_work(2.0) is None
    assert scheduler.wake_at == 11.0
    assert scheduler.next_work(10.9) is None
    assert scheduler.next_work(11.0) == PaddedBatch((early,), 400)
    scheduler.record(PaddedBatch((early,), 400), Outcome(400, finished=[early]), 11.5)
    assert scheduler.next_work(11.5) is None
    assert scheduler.wake_at == 12.0


def test_without_waiting_there_is_no_wake_up(limits: Limits, requests: Requests) -> None:
    scheduler = SequenceScheduler(limits)
    (request,) = requests([40])
    scheduler.submit(request, 0.0)
    work = scheduler.next_work(0.0)
    assert work == PaddedBatch((request,), 50)
    scheduler.record(work, Outcome(40, finished=[request]), 1.0)
    assert scheduler.next_work(1.0) is None
    assert scheduler.wake_at is None


def test_failures_wait_for_a_full_batch_or_for_their_time(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([50, 30, 50], arrival_s=[0, 20, 500])
    settings_ = {"max_wait_s": 100, "batch_size": 2}
    log = run_scheduler(OpenSequenceScheduler(limits, **settings_), asked, {0: 60, 1: 40, 2: 60})
    # 0 leaves at 100 and fails at 150; it has waited by 250.
    assert list(zip(log.batches, log.starts, strict=True))[:2] == [(([1, 0], 50), 100), (([0], 512), 250)]
    log = run_scheduler(OpenSequenceScheduler(limits, **settings_), requests([50] * 256), {0: 60, 1: 60})
    assert list(zip(log.batches, log.starts, strict=True))[1] == (([0, 1], 512), 50)


def test_a_failure_that_has_waited_goes_before_bins_that_are_younger(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    # Every 300 s a batch of 4 ends and 5 more have come: there is always a full bin, or one that has waited.
    asked = requests([50] + [300] * 60, arrival_s=[0, *(10 + 60 * k for k in range(60))])
    log = run_scheduler(OpenSequenceScheduler(limits, max_wait_s=10, batch_size=4), asked, {0: 51})
    assert log.finished.index(0) <= 12


def test_the_important_overtake_failures_that_have_waited(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    # 0 fails at 60 and is due at 70, when 1 still runs; 2 arrives meanwhile.
    asked = requests([50, 300, 300], arrival_s=[0, 45, 200], priority=[0, 0, -1])
    log = run_scheduler(OpenSequenceScheduler(limits, max_wait_s=10), asked, {0: 51})
    assert [rows for rows, _ in log.batches] == [[0], [1], [2], [0]]


def test_a_batch_that_has_waited_goes_before_new_questions(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    # Asking takes a second, and every second someone new arrives.
    asked = requests([None] * 60, arrival_s=[float(k) for k in range(60)])
    log = run_scheduler(OpenSequenceScheduler(limits, max_wait_s=5), asked, dict.fromkeys(range(60), 2))
    assert log.starts[0] <= 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": "narrow"}, "bins: narrow must be one of width, least-time"),
        ({"bins": "least-time"}, "bins: least-time needs vbs=memory and groups"),
        ({"group_size": 0}, "group_size: 0 must be at least 1"),
        ({"batch_size": -1}, "batch_size: -1 must be at least 1"),
        ({"bin_width": 0}, "bin_width: 0 must be at least 1"),
        ({"perceive_batch": 0}, "perceive_batch: 0 must be at least 1"),
        ({"vbs": "on"}, "vbs: on must be one of table, memory, off"),
        ({"margin": -1}, "margin: -1 must be at least 0"),
        ({"limit": "edge"}, "limit: 'edge' must be bin or quantile:Q"),
        ({"limit": "quantile:1.5"}, "limit: the quantile '1.5' must be between 0 and 1"),
        ({"limit": "quantile:"}, "limit: the quantile '' must be between 0 and 1"),
        ({"limit": "quantile:0.9", "fcr": False}, "limit: quantile:0.9 needs fcr=on"),
        ({"limit": "quantile:0.9", "margin": 0.5}, "limit: quantile:0.9 and margin: 0.5 are two quantiles"),
        ({"margin": 1.5}, "margin: 1.5 must be whole tokens, or a quantile between 0 and 1"),
        ({"margin": float("nan")}, "margin: nan must be at least 0"),
        ({"max_wait_s": -0.1}, "max_wait_s: -0.1 must be at least 0"),
        ({"max_wait_s": float("inf")}, "max_wait_s: inf must be at least 0 and below"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str, limits: Limits) -> None:
    with pytest.raises(ValueError, match="^" + message):
        SequenceScheduler(limits, **options)
