"""A validation on an engine that schedules by itself: it is set up as the policy says, handed the requests,
and held against the simulation, times and decisions alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from sim.hardware.profile import Profile
from sim.scenario.policies import limits_of, make_scheduler
from sim.scenario.scenario import Scenario
from sim.scenario.scenario import scenario as make_scenario
from traces.errors import InputError
from traces.trace import IntArray

from ..calibration.calibration import Calibration
from ..calibration.cells import Cell, CellBounds
from ..calibration.own_meter import LONG_ANSWER, OwnMeter, fits
from ..engines.scheduling import EngineSizes, SchedulerSettings, SchedulingEngine
from ..execution.clocks import Clock, PacedClock
from ..execution.own_scheduler import OwnSchedulerRun, own_scheduling
from ..execution.run import RealResult
from ..lengths.asker import asks_the_model, lacks_texts
from ..lengths.own_lengths import caps_of, say_that_lengths_are_found
from ..lengths.prompts import Prompts
from ..options import ReplayFlags
from .decisions import Comparison
from .validation import Run, Validation, put_to

PASSES = 3
"""How often every kind of iteration is measured again between the runs where no profile is given."""

TURN_ITERATIONS = 25
"""Iterations of a run until another has its turn, or the calibration goes on: on a processor half a second of
SmolLM2-135M, while the speed of a shared machine changes by the second.
"""


@dataclass
class OwnValidation(Validation):
    """The real runs of several policies by an engine's own scheduler."""

    skips_waits: bool = False
    """The clock counts the processor's work only, and jumps over waits."""
    first_settings: SchedulerSettings = field(default_factory=SchedulerSettings)
    """Those of a first run that finds the model's own lengths."""

    @property
    def own_engine(self) -> SchedulingEngine:
        """The engine."""
        return cast(SchedulingEngine, self.engine)

    def turn_of(self, runs: Sequence[Run]) -> int | None:
        """After so many iterations, since its schedulers take turns; none may be in flight then, nor may the
        model's own answers depend on what others have written into its memory.
        """
        is_bound = self.own_engine.async_scheduling or self.lengths == "model"
        return None if is_bound else TURN_ITERATIONS

    def num_works(self, policy: str, predictor: str) -> int:
        """About how many iterations a run has."""
        return int(self.scenarios[predictor].run(policy).summary["iterations"])

    def on_engine(self, scenario: Scenario) -> Scenario:
        """The scenario as the engine is told of it."""
        return as_told(scenario, self.own_engine, self.lengths)

    def find_lengths(self, scenario: Scenario) -> IntArray:
        """The lengths of the model's own answers to all prompts, which the engine gives now."""
        say_that_lengths_are_found(len(scenario.trace), self.say)
        most = caps_of(scenario).tolist()
        return own_lengths(self.own_engine, self.first_settings, self.prompts, most, self.loaded.eos_tokens)

    def start(self, policy: str, predictor: str) -> Run:
        """A real run that is about to begin."""
        return OwnSchedulerRun(
            self.scenarios[predictor],
            policy,
            self.own_engine,
            self.loaded,
            self.prompts,
            self.clock,
            skips_waits=self.skips_waits,
            end_tokens=self.loaded.eos_tokens if self.lengths == "model" else None,
        )

    def comparisons(
        self, scenario: Scenario, policy: str, runs: Sequence[RealResult]
    ) -> tuple[Comparison, ...]:
        """Decisions of each run beside ours, of answers as long as that run's."""
        compared: list[Comparison] = []
        for run in runs:
            lengths = np.array(run.output_tokens, dtype=np.int64)
            same = replace(scenario, trace=replace(scenario.trace, output_tokens=lengths))
            compared += super().comparisons(same, policy, [run])
        return tuple(compared)


def own_lengths(
    engine: SchedulingEngine,
    settings: SchedulerSettings,
    prompts: Prompts,
    most: Sequence[int],
    end_tokens: Collection[int],
) -> IntArray:
    """Tokens of the engine's answer to each prompt, its end token included, at most `most`, shape (n,)."""
    engine.use(settings)
    lengths = np.zeros(len(prompts), dtype=np.int64)
    for k, prompt in enumerate(prompts):
        engine.add(k, prompt, most[k], end_tokens=end_tokens)
    while engine.has_requests():
        for progress in engine.step():
            lengths[progress.key] += len(progress.tokens)
    engine.clear()
    return lengths


def _check_unsplit(checked: Scenario, answers: IntArray, own: Sequence[SchedulerSettings]) -> None:
    """InputError where a prompt and its answer may have to be computed at once and exceed the budget.

    vLLM does not start with such a budget, and ours would turn the request away.
    """
    longest = int((checked.trace.prompt_tokens + answers).max())
    for settings in own:
        if not settings.chunked and settings.max_num_batched_tokens < longest:
            raise InputError(
                f"max_num_batched_tokens: {settings.max_num_batched_tokens} must be at least {longest}, the "
                "longest prompt with its answer, with chunked=off"
            )


def _check_shared(checked: Scenario, pairs: Sequence[tuple[str, str]]) -> None:
    """InputError where prompts begin alike and a policy counts on finding its own tokens alone.

    vLLM finds whatever begins alike, or nothing.
    """
    for policy, _ in pairs:
        options = getattr(make_scheduler(policy, checked.limits), "options", None)
        if checked.trace.blocks is not None and getattr(options, "prefix_caching", None) == "own":
            raise InputError(
                f"policy {policy}: prefix_caching=own, but prompts of {checked.trace.name} begin alike, "
                "which vLLM makes use of (on) or does not (off)"
            )


def as_told(
    scenario: Scenario, engine: SchedulingEngine, lengths: Literal["trace", "model"] = "trace"
) -> Scenario:
    """The scenario on a machine with the memory of this engine, each request capped at its length or, where
    the model ends its answers, as it is.
    """
    size, trace = engine.block_size, scenario.trace
    limits = limits_of(scenario.profile, engine.capacity_tokens // size, size)
    return replace(
        scenario,
        trace=replace(trace, max_tokens=trace.output_tokens if lengths == "trace" else trace.max_tokens),
        limits=replace(limits, async_scheduling=engine.async_scheduling),
        fleet=(),
    )


def own_experiment(
    replay: ReplayFlags,
    pairs: Sequence[tuple[str, str]],
    profile: Profile | None,
    *,
    repeat: int,
    clock: Literal["wall", "paced"] | None,
    steps: Path | None,
    say: Callable[[str], None],
) -> tuple[Validation, Scenario, Clock]:
    """Start the engine, calibrate where there is no profile, and run; what was run and on which clock.

    Raises InputError for what such an engine cannot be told.
    """
    for _, predictor in pairs:
        if asks_the_model(predictor):
            raise InputError(f"predictor {predictor}: engine {replay.engine} is not asked for lengths")
    settings = replay.settings()
    loaded = replay.load(outline=True)
    source = replay.source(loaded)
    checked = make_scenario(source, predictor=pairs[0][1], **settings)
    if line := lacks_texts(checked.trace, loaded):
        say(line)
    checked = replace(checked, trace=put_to(loaded, None, checked)[0])
    on_gpu = loaded.device.type == "cuda"
    limits = replace(checked.limits, async_scheduling=on_gpu)
    own = [own_scheduling(policy, limits, replay.engine).settings for policy, _ in pairs]
    _check_unsplit(
        checked, caps_of(checked) if replay.lengths == "model" else checked.trace.output_tokens, own
    )
    _check_shared(checked, pairs)
    sizes = sizes_of(checked, own, replay.kv_tokens or (profile.kv_tokens() if profile else None))
    engine = replay.start_own(loaded, sizes)
    # It works in this process and on one thread only while it is stepped, so that waits can be skipped.
    one_thread = not on_gpu and torch.get_num_threads() == 1
    is_paced = clock == "paced" or (clock is None and profile is None and one_thread)
    ticks: Clock = PacedClock() if is_paced else time.perf_counter
    calibration = None
    if profile is None:
        cells = _cells(checked, sizes, engine.capacity_tokens)
        rng = np.random.default_rng(replay.seed)
        meter = OwnMeter(engine, loaded.ordinary_tokens, rng, sizes, ticks)
        calibration = Calibration(engine, loaded, cells, steps, replay.seed, ticks, say, meter)
    validation = OwnValidation(
        loaded,
        engine,
        source,
        settings,
        profile,
        calibration,
        replay.lengths,
        say,
        ticks,
        skips_waits=is_paced,
        first_settings=replace(own[0], num_gpu_blocks=None),
    )
    validation.prepare(pairs)
    # The first run of a trace meets batches of sizes that kernels have not been prepared for.
    validation.measure(pairs, repeat, warm_ups=1, passes=0 if on_gpu else PASSES)
    return validation, checked, ticks


def sizes_of(checked: Scenario, own: Sequence[SchedulerSettings], kv_tokens: int | None) -> EngineSizes:
    """The most that these requests under these settings, and a calibration for them, ask of an engine."""
    prompt = int(checked.trace.prompt_tokens.max())
    return EngineSizes(
        # One more than the policies have: beside so many that decode, a prompt is measured as well.
        max_num_seqs=1 + max(settings.max_num_seqs for settings in own),
        max_num_batched_tokens=max(settings.max_num_batched_tokens for settings in own),
        max_model_len=max(prompt + checked.max_new_tokens, 2 * prompt) + LONG_ANSWER,
        kv_tokens=kv_tokens,
    )


def _cells(checked: Scenario, sizes: EngineSizes, capacity_tokens: int) -> list[Cell]:
    """Iterations that cover what the trace can ask of the engine."""
    prompt, budget = int(checked.trace.prompt_tokens.max()), sizes.max_num_batched_tokens
    bounds = CellBounds(
        max_rows=min(sizes.max_num_seqs - 1, len(checked.trace)),
        max_context=prompt + checked.max_new_tokens,
        max_prompt=prompt,
        max_prefill_tokens=budget,
        mixed=True,
        floor=False,
    )
    return [cell for cell in bounds.cells(capacity_tokens) if fits(cell, budget)]
