"""Fits a profile to logs alone: to what clients saw at several rates, where nobody has timed iterations.

Every log is simulated, again and again, until TTFT and TPOT are nearest to what was measured, in the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date as Date
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from traces.errors import InputError
from traces.trace import FloatArray, IntArray, Trace

from ..hardware.datasheets import Gpu
from ..hardware.host import Host
from ..hardware.model_shape import ModelShape
from ..hardware.piecewise_linear import PiecewiseLinear
from ..hardware.profile import Profile, Provenance
from ..hardware.step_cost import StepCost
from ..hardware.what_if import BLOCK_SIZE
from ..kv_blocks import blocks_for
from ..scenario.scenario import scenario_of
from ..scenario.settings import read_settings
from .log_start import sizes_of, start_of
from .server_log import Log, of_a_server, read_log

LEAST_REQUESTS = 20
"""Completed requests of several tokens that a log must have."""
RANGE = 30.0
"""The most by which the fit goes away from where it began, as a factor."""
STEP = 0.1
"""Relative change of a quantity by which its effect is found. A small one only shifts who meets whom."""
EVALUATIONS = 12
"""The most steps of a fit."""
PASSES = 2
"""Fits, one after another. Errors are over what was measured in the first, over what the one before predicted
in the others: over what was measured, the faster of two runs of the same requests would weigh more.
"""
GROUPS = 5
"""Groups of requests, by length of the prompt and by arrival, whose mean latencies are fitted."""
LONGEST_PREFILL = 8192.0
DRAWS = 400
"""Draws from the distribution of the quantities, of which the uncertainty is computed."""
FIGURES = ("ttft_ms", "tpot_ms", "e2el_ms")


@dataclass(frozen=True)
class LogErrors:
    """Mean latencies of a log: measured, in ms, and the relative errors of the fit to all logs, and of the
    fit to the others (empty where there is one log). `rate`: requests per second, infinite where all came at
    once.
    """

    name: str
    requests: int
    rate: float
    measured: dict[str, float]
    fitted: dict[str, float]
    left_out: dict[str, float]


@dataclass(frozen=True)
class LogFit:
    """A fitted profile, its errors by log, and what the logs cannot show."""

    profile: Profile
    errors: tuple[LogErrors, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class IterationModel:
    """From quantities, all above 0, to a profile: the time of a decode iteration at each of `sizes` (as what
    it adds to the size before), per context token, per prompt token, and before a request can be scheduled.
    """

    sizes: tuple[float, ...]
    name: str = ""
    engine: str = ""
    model: ModelShape | None = None
    gpu: Gpu | None = None

    def profile(self, seconds: FloatArray) -> Profile:
        """The profile of these quantities, without a provenance of its own."""
        k = len(self.sizes)
        base = np.cumsum(seconds[:k])
        context_s, prompt_s, before_s = (float(value) for value in seconds[k:])
        mixed = PiecewiseLinear(
            (1.0, LONGEST_PREFILL), (float(base[0]), float(base[0]) + prompt_s * (LONGEST_PREFILL - 1))
        )
        decode = PiecewiseLinear(self.sizes, tuple(base.tolist()))
        return Profile(
            name=self.name,
            model=self.model,
            gpu=self.gpu,
            engine=self.engine,
            step_cost=StepCost(decode, context_s, mixed, context_s, 0.0),
            memory=None,
            provenance=Provenance("measured", "", ""),
            host=Host(before_ms=1e3 * before_s),
        )


def fit_logs(
    paths: Sequence[str | Path],
    *,
    name: str,
    policy: str = "continuous",
    kv_blocks: int | None = None,
    block_size: int | None = None,
    engine: str = "unknown",
    model: ModelShape | None = None,
    gpu: Gpu | None = None,
    time_unit: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> LogFit:
    """A profile under which the logs at `paths` come out as measured, under the server's own `policy`.

    `kv_blocks`: its KV memory, in blocks of `block_size` tokens (16 by default); None: enough for all.
    `on_progress(done, fits)`. Raises InputError for a bad log, and for one with too few requests.
    """
    if not paths:
        raise InputError("log: no file is given")
    names = _names(paths)
    logs = [read_log(path, time_unit) for path in paths]
    for path, log in zip(paths, logs, strict=True):
        check_enough(path, log)
    fits = 1 + (len(logs) if len(logs) > 1 else 0)

    def progress(done: int) -> None:
        if on_progress is not None:
            on_progress(done, fits)

    replays = [_Replay(log, of_a_server(policy), kv_blocks, block_size) for log in logs]
    shape = IterationModel(sizes_of(logs), name, engine, model, gpu)
    best, spread = _refined(replays, shape)
    progress(1)
    errors = []
    for number, replay in enumerate(replays):
        others = [each for each in replays if each is not replay]
        without: dict[str, float] = {}
        if others:
            left, _ = _refined(others, shape)
            without = replay.errors(shape.profile(left))
            progress(2 + number)
        errors.append(replay.described(names[number], replay.errors(shape.profile(best)), without))
    notes = [f"{name}: {note}" for name, log in zip(names, logs, strict=True) for note in log.notes]
    return LogFit(_finished(shape, best, spread, errors), tuple(errors), (*_limits(logs), *notes))


def check_enough(path: str | Path, log: Log) -> None:
    """InputError, naming the file, where a log has too few requests to be fitted to, or no latencies."""
    if (several := int((log.trace.output_tokens > 1).sum())) < LEAST_REQUESTS:
        raise InputError(f"{path}: {several} completed requests of several tokens, {LEAST_REQUESTS} needed")
    for column in ("ttft_ms", "tpot_ms"):
        if not log.latency[column][log.trace.output_tokens > 1].any():
            raise InputError(f"{path}, {column}: is 0 in every row, so that there is nothing to fit")


def _names(paths: Sequence[str | Path]) -> list[str]:
    """The file names, or the whole paths where two are called alike; InputError for a file given twice."""
    whole = [str(path) for path in paths]
    if twice := next((path for path in whole if whole.count(path) > 1), None):
        raise InputError(f"log: {twice} is given twice")
    names = [Path(path).name for path in paths]
    return names if len(set(names)) == len(names) else whole


class _Replay:
    """A log that can be simulated under a profile."""

    def __init__(self, log: Log, policy: str, kv_blocks: int | None, block_size: int | None) -> None:
        trace = log.trace
        assert trace.arrival_s is not None
        self.log, self.policy = log, policy
        size = BLOCK_SIZE if block_size is None else block_size
        if kv_blocks is None:
            totals = (trace.prompt_tokens + trace.output_tokens).tolist()
            kv_blocks = sum(blocks_for(tokens, max(1, size)) for tokens in totals)
        self.memory = {"kv_blocks": kv_blocks, "block_size": size}
        self.several = trace.output_tokens > 1
        self.measured = {
            name: log.latency[name][self.several] if name == "tpot_ms" else log.latency[name]
            for name in FIGURES
        }
        self.groups = {
            "ttft_ms": _groups(trace),
            "tpot_ms": _groups(trace.select(np.flatnonzero(self.several))),
        }

    def predicted(self, profile: Profile) -> dict[str, FloatArray]:
        """Latencies in ms, as `measured` has them."""
        settings = read_settings(self.log.trace, {"profile": profile, **self.memory})
        result = scenario_of(settings).run(self.policy)
        columns = result.columns
        if result.summary["failed"]:
            raise InputError(
                f"{self.log.trace.name}: {result.summary['failed']} requests cannot be served under "
                f"{self.policy} ({result.summary['failed_reason']})"
            )
        return {name: columns[name][self.several] if name == "tpot_ms" else columns[name] for name in FIGURES}

    def residuals(self, profile: Profile, scale: Mapping[str, float]) -> FloatArray:
        """Mean TTFT and TPOT of groups of requests against what was measured, over `scale`; every log weighs
        the same. A single request tells little: when exactly it came to the server decides whom it met.
        """
        predicted = self.predicted(profile)
        parts = []
        for name in ("ttft_ms", "tpot_ms"):
            measured = self.measured[name]
            error = (predicted[name] - measured) / scale[name]
            parts += [error[rows].mean() * np.sqrt(len(rows) / len(error)) for rows in self.groups[name]]
        return np.array(parts)

    def errors(self, profile: Profile) -> dict[str, float]:
        """Mean latencies predicted over measured, minus 1."""
        predicted = self.predicted(profile)
        return {name: float(predicted[name].mean() / self.measured[name].mean() - 1) for name in FIGURES}

    def described(self, name: str, fitted: dict[str, float], left_out: dict[str, float]) -> LogErrors:
        """The errors of fits beside what was measured."""
        trace = self.log.trace
        measured = {key: float(values.mean()) for key, values in self.measured.items()}
        return LogErrors(name, len(trace), trace.mean_rate or np.inf, measured, fitted, left_out)


def _means(latency: Mapping[str, FloatArray]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in latency.items()}


def _groups(trace: Trace) -> list[IntArray]:
    """Rows of equal groups, by length of the prompt, and by arrival."""
    by_prompt = np.argsort(trace.prompt_tokens, kind="stable")
    return [*np.array_split(by_prompt, GROUPS), *np.array_split(np.arange(len(trace)), GROUPS)]


def _refined(replays: Sequence[_Replay], shape: IterationModel) -> tuple[FloatArray, FloatArray]:
    """Quantities nearest to what was measured, and the covariance of their logarithms."""
    start = start_of([replay.log for replay in replays], shape.sizes)

    def seconds(x: FloatArray) -> FloatArray:
        return np.asarray(start * np.exp(x - 1))  # 1 is where it begins: steps are relative to x

    def residuals(x: FloatArray) -> FloatArray:
        profile = shape.profile(seconds(x))
        return np.concatenate([r.residuals(profile, s) for r, s in zip(replays, scales, strict=True)])

    span = np.log(RANGE)
    scales = [_means(replay.measured) for replay in replays]
    for number in range(PASSES):
        found = least_squares(
            residuals,
            np.ones(len(start)),
            bounds=(1 - span, 1 + span),
            diff_step=np.full(len(start), STEP),
            loss="soft_l1",
            xtol=1e-3,
            ftol=1e-2,
            max_nfev=EVALUATIONS,
        )
        if number + 1 < PASSES:
            scales = [_means(replay.predicted(shape.profile(seconds(found.x)))) for replay in replays]
    jacobian: FloatArray = np.asarray(found.jac)
    freedom = max(len(found.fun) - len(start), 1)
    # Quantities that the logs do not tell have no finite spread of their own: they get the widest allowed.
    information = jacobian.T @ jacobian + np.eye(len(start)) * 2 * found.cost / freedom / span**2
    return seconds(found.x), 2 * found.cost / freedom * np.linalg.inv(information)


def _finished(
    shape: IterationModel, best: FloatArray, spread: FloatArray, errors: Sequence[LogErrors]
) -> Profile:
    """The profile with where its numbers come from."""
    rng = np.random.default_rng(0)
    drawn = [best * np.exp(x) for x in rng.multivariate_normal(np.zeros(len(best)), spread, DRAWS)]

    def between(quantity: Callable[[Profile], float]) -> list[float]:
        values = np.array([quantity(shape.profile(seconds)) for seconds in drawn])
        return [float(q) for q in np.percentile(values / quantity(shape.profile(best)) - 1, [5, 95])]

    largest = int(shape.sizes[-1])
    uncertainty = {
        "decode of 1 sequence": between(lambda p: p.step_cost.decode_s(1, 500)),
        f"decode of {largest} sequences": between(lambda p: p.step_cost.decode_s(largest, 500 * largest)),
        "prefill of 1000 tokens": between(lambda p: p.step_cost.mixed_s(0, 0, 1, 1000, 500_000)),
        "time before a request can be scheduled": between(lambda p: p.host.before_ms),
    }
    residuals: dict[str, Any] = {
        each.name: {"fitted": each.fitted, **({"left out": each.left_out} if each.left_out else {})}
        for each in errors
    }
    requests = sum(each.requests for each in errors)
    rates = [each.rate if np.isfinite(each.rate) else "all at once" for each in errors]
    provenance = Provenance(
        "measured",
        Date.today().isoformat(),
        f"fitted to {requests:,} requests as their clients saw them; no iteration was timed",
        source=", ".join(each.name for each in errors),
        grid={"batch sizes": list(shape.sizes), "requests per second": rates},
        residuals=residuals,
        uncertainty=uncertainty,
    )
    return replace(shape.profile(best), provenance=provenance)


def _limits(logs: Sequence[Log]) -> list[str]:
    """What these logs cannot show."""
    notes = []
    if len(logs) == 1:
        notes.append("one log: nothing says how well another rate is predicted; take two more rates")
    prompts = np.concatenate([log.trace.prompt_tokens for log in logs])
    if np.percentile(prompts, 95) < 2 * np.percentile(prompts, 5):
        notes.append("prompts are all about as long: what a token of prompt costs is hardly told")
    return notes
