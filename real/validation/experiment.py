"""A validation from its settings to its results: load, calibrate where needed, run, simulate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sim.hardware import catalogue as profiles
from sim.hardware.profile import Profile
from sim.perception.predictors import ANSWER_TOKENS, QUESTION_TOKENS
from sim.perception.registry import make_predictor
from sim.scenario.policies import make_scheduler
from sim.scenario.scenario import Scenario
from sim.scenario.scenario import scenario as make_scenario
from sim.work import Limits
from traces.errors import InputError

from ..calibration.calibration import Calibration, versions
from ..calibration.cells import CellBounds
from ..engines.engine import Engine
from ..engines.model import LoadedModel
from ..execution.clocks import Clock, PacedClock
from ..lengths.asker import Asker, asks_the_model, lacks_texts, model_predictor
from ..options import ReplayFlags
from .own_experiment import own_experiment
from .report import PolicyCheck
from .validation import STAND_IN, Validation, put_to

PASSES = 6
"""How often every kind of iteration is measured again between the runs where no profile is given."""


def experiment(
    replay: ReplayFlags,
    pairs: Sequence[tuple[str, str]],
    *,
    repeat: int,
    clock: Literal["wall", "paced"] | None,
    adapter: Path | None = None,
    steps: Path | None = None,
    say: Callable[[str], None],
) -> tuple[list[PolicyCheck], dict[str, Any]]:
    """Load, calibrate where needed, run, simulate; returns the checks and a description of the experiment."""
    profile = profiles.load(replay.profile) if replay.profile is not None else None
    if profile is not None and profile.engine != replay.engine:
        raise InputError(f"profile {replay.profile}: its engine is {profile.engine}, not {replay.engine}")
    if profile is not None and steps is not None:
        raise InputError(f"steps {steps}: with profile {replay.profile} nothing is calibrated")
    replay.check(adapter)
    if replay.schedules_by_itself:
        if adapter is not None:
            raise InputError(f"adapter {adapter}: engine {replay.engine} is not asked for lengths")
        ran = own_experiment(replay, pairs, profile, repeat=repeat, clock=clock, steps=steps, say=say)
    else:
        ran = _experiment(
            replay, pairs, profile, repeat=repeat, clock=clock, adapter=adapter, steps=steps, say=say
        )
    validation, checked, ticks = ran
    return validation.cases(pairs), _about(replay, validation, checked, ticks, repeat)


def _experiment(
    replay: ReplayFlags,
    pairs: Sequence[tuple[str, str]],
    profile: Profile | None,
    *,
    repeat: int,
    clock: Literal["wall", "paced"] | None,
    adapter: Path | None,
    steps: Path | None,
    say: Callable[[str], None],
) -> tuple[Validation, Scenario, Clock]:
    """The same on an engine that runs what it is told; what was run and on which clock."""
    settings, seed = replay.settings(), replay.seed
    # Bad settings are refused before the model is loaded; any profile serves for that.
    first = pairs[0][1]
    stand_in = STAND_IN if asks_the_model(first) else first
    checked = make_scenario(replay.source(), predictor=stand_in, **settings)
    for policy, predictor in pairs:
        _check(policy, predictor, checked.limits)
    loaded = replay.load()
    asker = _asker(pairs, loaded, adapter, seed, say)
    source = replay.source(loaded)
    checked = make_scenario(source, predictor=stand_in, **settings)
    if asker is None and (line := lacks_texts(checked.trace, loaded)):
        say(line)
    checked = replace(checked, trace=put_to(loaded, asker, checked)[0])
    on_gpu = loaded.device.type == "cuda"
    at_once = not np.any(checked.trace.arrival_s) and not np.any(checked.trace.thinks_s)
    # Without waits, and with a calibration on the same clock, a processor can be timed at an even pace.
    is_paced = clock == "paced" or (
        clock is None and not on_gpu and at_once and profile is None and torch.get_num_threads() == 1
    )
    ticks: Clock = PacedClock() if is_paced else time.perf_counter
    engine = replay.start(loaded, profile)
    calibration = None
    if profile is None:
        longest = asker.asking_tokens([predictor for _, predictor in pairs]) if asker is not None else (0, 0)
        question, answer = max(longest[0], QUESTION_TOKENS), max(longest[1], ANSWER_TOKENS)
        cells = _bounds(checked, engine, question, answer).cells(engine.capacity_tokens)
        calibration = Calibration(engine, loaded, cells, steps, seed, ticks, say)
    validation = Validation(
        loaded, engine, source, settings, profile, calibration, replay.lengths, say, ticks, asker
    )
    validation.prepare(pairs)
    validation.measure(pairs, repeat, warm_ups=int(on_gpu), passes=0 if on_gpu else PASSES)
    return validation, checked, ticks


def _about(
    replay: ReplayFlags, validation: Validation, checked: Scenario, ticks: Clock, repeat: int
) -> dict[str, Any]:
    """A description of the experiment."""
    assert validation.profile is not None
    engine, provenance, asker = validation.engine, validation.profile.provenance, validation.asker
    about = {
        "ran": f"{replay.engine} on {validation.loaded.label}",
        "trace": checked.trace.name,
        "requests": len(checked.trace),
        "arrivals": "over time" if np.any(checked.trace.arrival_s) else "all at once",
        "clock": _clock_label(ticks),
        "lengths": replay.lengths,
        "repeats": repeat,
        "seed": replay.seed,
        "kv_tokens": engine.capacity_tokens,
        "profile": f"{validation.profile.name} ({provenance.kind}, {provenance.date})",
        "fit_residuals": provenance.residuals,
        "versions": versions() | getattr(engine, "versions", {}),
    }
    return about | ({} if asker is None else {"perception": asker.reports})


def _asker(
    pairs: Sequence[tuple[str, str]],
    loaded: LoadedModel,
    adapter: Path | None,
    seed: int,
    say: Callable[[str], None],
) -> Asker | None:
    """The asker, its warnings reported; None where no predictor asks the model.

    Raises InputError for an adapter that no predictor would use.
    """
    if not any(asks_the_model(predictor) for _, predictor in pairs):
        if adapter is not None:
            raise InputError(f"adapter {adapter}: no predictor asks the model (predictors: model)")
        return None
    asker = Asker(loaded, adapter, seed)
    for warning in asker.warnings():
        say(warning)
    return asker


def _clock_label(ticks: Any) -> str:
    """The clock that the times come from, and how uneven the processor was."""
    spread = getattr(ticks, "spread", None)
    if spread is None:
        return "wall"
    low, high = (1e3 * s for s in spread)
    return f"processor time at an even pace (meanwhile a fixed beat took {low:.2f} to {high:.2f} ms)"


def _bounds(checked: Scenario, engine: Engine, question_tokens: int, answer_tokens: int) -> CellBounds:
    """Bounds that cover what the trace can ask of the engine: padded batches of at most 256 rows."""
    prompt = int(checked.trace.prompt_tokens.max())
    rows = min(256, len(checked.trace))
    return CellBounds(
        max_rows=rows,
        max_context=prompt + max(checked.max_new_tokens, question_tokens + answer_tokens),
        max_prompt=prompt + question_tokens,
        mixed=hasattr(engine, "iterate"),
        uneven=engine.ragged_decode,
        floor=False,
    )


def _check(policy: str, predictor: str, limits: Limits) -> None:
    make_scheduler(policy, limits)
    if asks_the_model(predictor):
        model_predictor(predictor)
    else:
        make_predictor(predictor)
