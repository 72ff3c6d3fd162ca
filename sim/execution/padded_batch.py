"""Duration and effects of a padded batch, in closed form; knows nothing of SimPy, queues or schedulers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..hardware.step_cost import StepCost
from ..kv_blocks import padded_tokens
from ..results.batch_record import BatchRecord
from ..work import PaddedBatch, Perceive, SchedulingError
from .leap import Leap


@dataclass(frozen=True, slots=True)
class PerceptionCost:
    """What asking for a length costs: `question_tokens` more prompt, and `answer_tokens` decode steps; 0, 0:
    free.

    With an adapter that takes part only when the model is asked, each iteration takes `slowdown` times as
    long.
    """

    question_tokens: int = 0
    answer_tokens: int = 0
    slowdown: float = 1.0


FREE = PerceptionCost()


def batch_record(
    work: PaddedBatch, cost: StepCost, output_tokens: Sequence[int], start_s: float
) -> BatchRecord:
    """The leap of a padded batch: prefill, then decode until the longest row is done or the limit is reached.

    `output_tokens` is indexed by request id. SchedulingError for a batch that runs nothing.
    """
    requests = work.requests
    if work.token_limit < 1 or not requests or len({r.id for r in requests}) < len(requests):
        raise SchedulingError(
            f"a batch needs a token_limit of at least 1 ({work.token_limit}) and different requests "
            f"({[r.id for r in requests]})"
        )
    prompts = [r.prompt_tokens for r in requests]
    context, uneven = cost.batch_context_tokens(prompts), cost.batch_uneven_tokens(prompts)
    rows = len(prompts)
    longest = max(output_tokens[r.id] - r.answered_tokens for r in requests)
    iterations = min(work.token_limit, longest)
    first_step_s, slope_s = cost.decode_run(rows, context, uneven)
    prefill_end_s = start_s + cost.batch_prefill_s(prompts)
    return BatchRecord(
        PaddedBatch.kind,
        tuple([r.id for r in requests]),
        work.token_limit,
        iterations,
        start_s,
        prefill_end_s,
        prefill_end_s + cost.decode_run_s(rows, context, iterations - 1, uneven),
        max(prompts),
        first_step_s,
        slope_s,
        padded_tokens(requests, work.token_limit),
        answered=work.answered,
    )


def perceive_record(
    work: Perceive, cost: StepCost, perception: PerceptionCost, start_s: float
) -> BatchRecord:
    """Prefill of prompts with the question, then one decode step per token of the answer; or no time at all.

    SchedulingError for a question without requests.
    """
    question, answer = perception.question_tokens, perception.answer_tokens
    rows, ids = len(work.requests), tuple([r.id for r in work.requests])
    if not question and not answer:
        return BatchRecord(Perceive.kind, ids, 0, 0, start_s, start_s, start_s)
    if not rows:
        raise SchedulingError("a Perceive of 0 requests asks nothing")
    prompts = [r.prompt_tokens + question for r in work.requests]
    context, uneven = cost.batch_context_tokens(prompts), cost.batch_uneven_tokens(prompts)
    kv_tokens, slowdown = padded_tokens(work.requests, question + answer), perception.slowdown
    first_step_s, slope_s = (slowdown * seconds for seconds in cost.decode_run(rows, context, uneven))
    prefill_end_s = start_s + slowdown * cost.batch_prefill_s(prompts)
    end_s = prefill_end_s + slowdown * cost.decode_run_s(rows, context, answer, uneven)
    return BatchRecord(
        Perceive.kind,
        ids,
        answer,
        answer + 1,
        start_s,
        prefill_end_s,
        end_s,
        max(prompts),
        first_step_s,
        slope_s,
        kv_tokens,
    )


def cut_off(record: BatchRecord, now: float) -> BatchRecord:
    """What of a batch had run when its accelerator failed."""
    start_s = record.start_s
    run = Leap(
        record.iterations, record.prefill_end_s - start_s, record.first_step_s, record.step_slope_s, start_s
    )
    iterations = run.iterations_ended(now)
    return record._replace(iterations=iterations, prefill_end_s=min(record.prefill_end_s, now), end_s=now)
