"""Runs a trace on a real model and simulates the same trace: the experiment behind `real/validate.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, cast

import numpy as np

from sim.hardware.profile import Profile
from sim.hardware.what_if import BLOCK_SIZE
from sim.scenario.scenario import Scenario
from sim.scenario.scenario import scenario as make_scenario
from traces.trace import IntArray, Trace

from ..calibration.calibration import Calibration
from ..engines.engine import Engine, Machine
from ..engines.model import LoadedModel
from ..execution.run import RealResult, RealRun
from ..lengths.asker import Asker, asks_the_model, put
from ..lengths.own_lengths import with_lengths, with_own_lengths
from ..lengths.progress import Progress
from ..lengths.prompts import Prompts
from .decisions import Comparison, compare
from .report import PolicyCheck

FIRST_PASSES = 2
"""Visits to every cell before the first run; they give the schedulers their limits."""

STAND_IN = "oracle"
"""Stands in for the predictor `model` until the model has been asked."""


class Run(Protocol):
    """A real run under way."""

    scenario: Scenario

    def step(self) -> bool:
        """Go on a little; False where the run is over."""

    def measured(self) -> RealResult:
        """What came of it, once it is over."""


def put_to(loaded: LoadedModel, asker: Asker | None, scenario: Scenario) -> tuple[Trace, Prompts]:
    """The trace with the lengths of its prompts, and the prompts; texts made up if it is to be asked."""
    return put(scenario.trace, loaded, scenario.seed) if asker is None else asker.prompts_of(scenario.trace)


@dataclass
class Validation:
    """The real runs of several policies, with a calibration that continues between them where there is one.

    That way a machine whose speed drifts, such as a shared processor, is calibrated as it was during the
    runs. `settings` are those of `sim.simulation.scenario`, except predictor and profile.
    """

    loaded: LoadedModel
    engine: Machine
    trace: Trace | str
    settings: Mapping[str, Any]
    profile: Profile | None
    calibration: Calibration | None
    lengths: Literal["trace", "model"] = "trace"
    say: Callable[[str], None] = print
    clock: Callable[[], float] = time.perf_counter
    asker: Asker | None = None
    prompts: Prompts = ()
    own_lengths: IntArray | None = None
    """Lengths of the model's own answers, once a first run has found them."""
    scenarios: dict[str, Scenario] = field(default_factory=dict)
    runs: dict[tuple[str, str], list[RealResult]] = field(default_factory=dict)
    num_rows_before: int = 0
    """Rows of the calibration that are older than the runs; the machine may have been slower then."""

    def prepare(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Calibrate where no profile is given, and prepare the scenario of every predictor in `pairs`."""
        if self.calibration is not None:
            self.say(f"calibrating: {len(self.calibration.cells)} kinds of iteration")
            self.calibration.complete(FIRST_PASSES)
            self.profile, _ = self.calibration.fit("calibrated-on-the-spot")
        assert self.profile is not None
        blocks = self.engine.capacity_tokens // BLOCK_SIZE
        for _, predictor in pairs:
            if predictor not in self.scenarios:
                asks = self.asker is not None and asks_the_model(predictor)
                scenario = make_scenario(
                    self.trace,
                    predictor=STAND_IN if asks else predictor,
                    profile=self.profile,
                    kv_blocks=blocks,
                    **self.settings,
                )
                scenario = self.on_engine(scenario)
                trace, self.prompts = put_to(self.loaded, self.asker, scenario)
                scenario = self._with_lengths(replace(scenario, trace=trace))
                if self.asker is not None and asks:
                    scenario = self.asker.with_predictions(
                        scenario, predictor, cast(Engine, self.engine), self.prompts, self.clock, self.say
                    )
                    self.say(f"asked for all lengths: {predictor}")
                self.scenarios[predictor] = scenario

    def on_engine(self, scenario: Scenario) -> Scenario:
        """The scenario with the memory that the engine has, where blocks of `BLOCK_SIZE` do not say it."""
        return scenario

    def _with_lengths(self, scenario: Scenario) -> Scenario:
        """The scenario with the lengths that its answers will have, as far as they are known beforehand."""
        if self.lengths == "trace":
            return scenario
        if self.own_lengths is not None:
            return replace(scenario, trace=with_lengths(scenario.trace, self.own_lengths))
        self.own_lengths = self.find_lengths(scenario)
        return replace(scenario, trace=with_lengths(scenario.trace, self.own_lengths))

    def find_lengths(self, scenario: Scenario) -> IntArray:
        """The lengths of the model's own answers to all prompts, which it answers now."""
        engine = cast(Engine, self.engine)
        found = with_own_lengths(scenario, engine, self.prompts, self.loaded.eos_tokens, self.say)
        return found.trace.output_tokens

    def measure(self, pairs: Sequence[tuple[str, str]], repeats: int, warm_ups: int, passes: int) -> None:
        """Run every (policy, predictor) `repeats` times.

        `warm_ups` more rounds come first and are discarded. `passes`: how often every cell is visited again,
        in total, some visits after each Work; visits from before an interruption count.
        """
        rng = np.random.default_rng(0)
        to_visit = 0
        if self.calibration is not None:
            visits = (FIRST_PASSES + passes) * len(self.calibration.cells)
            to_visit = max(0, visits - len(self.calibration.rows))
        for _ in range(warm_ups):
            for _ in self._in_turns({pair: self.start(*pair) for pair in pairs}, rng):
                pass
        if self.calibration is not None:
            self.num_rows_before = len(self.calibration.rows)
        num_works = repeats * sum(self.num_works(*pair) for pair in pairs)
        works = visited = 0
        progress = Progress(self.say, "runs and visits between them", num_works + to_visit)
        for repeat in range(repeats):
            started = {pair: self.start(*pair) for pair in pairs}
            for done in self._in_turns(started, rng):
                works += done
                if self.calibration is not None:
                    due = min(to_visit, works * to_visit // num_works) - visited
                    visited += due
                    for _ in range(due):
                        self.calibration.measure(1)
                        progress.advance()
                progress.advance(done)
            for pair, run in started.items():
                self.runs.setdefault(pair, []).append(run.measured())
            self.say(f"round {repeat + 1} of {repeats} done")

    def start(self, policy: str, predictor: str) -> Run:
        """A real run that is about to begin."""
        scenario = self.scenarios[predictor]
        asking = self.asker.askings.get(predictor) if self.asker is not None else None
        engine = cast(Engine, self.engine)
        return RealRun(scenario, policy, engine, self.loaded, self.prompts, self.lengths, self.clock, asking)

    def _in_turns(self, started: Mapping[tuple[str, str], Run], rng: np.random.Generator) -> Iterator[int]:
        """Drive all runs to their end; whenever the engine is free, yield the number of Works since then.

        Where they can, the runs take turns, each on its own stopwatch, so that a drift of the machine affects
        all alike. Otherwise one run follows another, in random order.
        """
        runs = list(started.values())
        turn = self.turn_of(runs)
        while runs:
            k = int(rng.integers(len(runs)))
            works = 0
            while goes_on := runs[k].step():
                works += 1
                if works == turn:
                    break
            yield works
            if not goes_on:
                del runs[k]

    def num_works(self, policy: str, predictor: str) -> int:
        """About how many steps a run has."""
        return len(self.scenarios[predictor].run(policy, log=True).batches)

    def turn_of(self, runs: Sequence[Run]) -> int | None:
        """After how many Works a run may give way to another; None: at its end.

        After each where all requests arrive at the start and every Work leaves the engine empty.
        """
        at_once = not any(np.any(run.scenario.trace.arrival_s) for run in runs)
        return 1 if at_once and not hasattr(self.engine, "iterate") else None

    def cases(self, pairs: Sequence[tuple[str, str]]) -> list[PolicyCheck]:
        """Simulate the same requests with the latest calibration, and pair each result with its runs."""
        if self.calibration is not None:
            self.profile, _ = self.calibration.fit("calibrated-on-the-spot", self.num_rows_before)
        assert self.profile is not None
        checks = []
        for policy, predictor in pairs:
            runs = self.runs[policy, predictor]
            # The scheduler keeps the limits that it had in the real runs.
            same = replace(self.scenarios[predictor], profile=self.profile)
            output_tokens = runs[0].output_tokens if self.lengths == "model" else None
            predicted = same.run(policy, output_tokens=output_tokens, log=True)
            incidents = tuple(line for measured in runs for line in measured.incidents)
            results = tuple(measured.result for measured in runs)
            check = PolicyCheck(policy, predictor, predicted, results, incidents)
            checks.append(replace(check, comparisons=self.comparisons(same, policy, runs)))
        return checks

    def comparisons(
        self, scenario: Scenario, policy: str, runs: Sequence[RealResult]
    ) -> tuple[Comparison, ...]:
        """What the engine decided beside what we decide, of each run; none where it runs what it is told."""
        return tuple(compare(scenario, policy, run.scheduled) for run in runs if run.scheduled is not None)
