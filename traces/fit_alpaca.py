"""Fits the model of the `alpaca-vicuna` generator to measured response lengths, and reports the fit.

Which few numbers make synthetic answers as alike, and as unlike, as the measured ones?

    python -m traces.fit_alpaca alpaca-val-10k-length.json --out traces/data/alpaca-vicuna.json

The dependence between the four answers is fitted by the method of simulated moments: damped least squares on
statistics of lengths drawn with the same random numbers in every round. The thresholds that turn scores into
lengths are no free parameters: they are set from the measured distribution of each sample (for a sampled
answer, of those that differ in length from the greedy one), so each sample's own distribution is met
whatever the dependence. The search ends in one of several optima of about equal quality: the whole is meant
to predict, no single parameter to be read. Knows nothing of traces, prompts or schedulers. The last line of
stdout is the worst deviations, as JSON.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .synthetic import NORMALS_PER_ROW, copies_greedy, draw_samples, latent_scores, lengths_of
from .trace import FloatArray, IntArray

SAMPLE_NAMES = ("t0.0", "t0.3", "t0.5", "t0.7")
SOURCE = "zhengzangw/Sequence-Scheduling data/alpaca-val-10k-length.json"
SOURCE_COMMIT = "3992f34113d1b0649e057d4608876ccfa78e8333"
GRID_TOKENS = (
    *(3, 5, 7, 8, 10, 12, 14, 16, 18, 20, 23, 27, 32, 40, 50, 65, 80, 100, 120, 140),
    *(165, 190, 220, 250, 290, 330, 380, 440, 511),
)
SCORE_KNOTS = (-2.0, -1.2, -0.6, -0.2, 0.2, 0.8, 2.0)
LENGTH_KNOTS = (8, 15, 30, 60, 120, 300)
BAND_EDGES = (10, 20, 40, 80, 150, 300)
THRESHOLD_ROWS = 400_000
MIN_BAND_ROWS = 30
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
METHOD = "simulated moments by damped least squares, thresholds from measured quantiles (traces.fit_alpaca)"

_START = np.array(
    [-1.3] * 7 + [1.0, 0.3, -0.8, -1.5, -2.0, -2.5] + [0.1, 0.2, 0.3] + [0.3, 0.6] + [0.6, 0.5, 0.4, 0.3, 0.1]
)
_STEP = 0.08


def _dependence(x: FloatArray) -> dict[str, Any]:
    """The free parameters by name; `shared_with_greedy` passes through tanh and `tail` is kept off 0."""
    return {
        "spread": {
            "score_knots": list(SCORE_KNOTS),
            "log_spread": x[:7].tolist(),
            "log_sample_scale": [0.0, *x[13:16].tolist()],
            "volatility": float(x[18]),
            "tail": max(abs(float(x[20])), 1e-3),
            "shared_with_greedy": float(np.tanh(x[22])),
        },
        "copying": {
            "length_knots": list(LENGTH_KNOTS),
            "level": x[7:13].tolist(),
            "penalty": [0.0, *x[16:18].tolist()],
            "volatility": float(x[19]),
            "prompt_scale": float(x[21]),
        },
    }


def _simulate(
    dependence: dict[str, Any], samples: IntArray, normals: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Lengths (len(normals), 4) under `dependence`, and the thresholds (4, grid) that `samples` imply."""
    lengths = {"grid_tokens": GRID_TOKENS, "cap_tokens": samples.max(), "floor_tokens": samples.min()}

    def thresholds_of(scores: FloatArray, measured: IntArray) -> FloatArray:
        shares = np.searchsorted(np.sort(measured), GRID_TOKENS, side="right") / len(measured)
        quantiles: FloatArray = np.quantile(scores, shares)
        return quantiles

    scores = latent_scores(dependence, normals)
    thresholds = [thresholds_of(scores[:, 0], samples[:, 0])]
    drawn = [lengths_of(scores[:, 0], thresholds[0], lengths)]
    copied = copies_greedy(dependence, drawn[0], normals)
    for k in range(1, samples.shape[1]):
        # Two answers cut off at the cap are equal without being alike.
        own = (samples[:, k] != samples[:, 0]) | (samples[:, k] == samples.max())
        thresholds.append(thresholds_of(scores[~copied[:, k - 1], k], samples[own, k]))
        drawn.append(np.where(copied[:, k - 1], drawn[0], lengths_of(scores[:, k], thresholds[k], lengths)))
    return np.column_stack(drawn), np.stack(thresholds)


def _moments(samples: FloatArray | IntArray) -> FloatArray:
    """The statistics that the fit compares, each in units of its tolerable deviation."""
    greedy, longest, logs = samples[:, 0], samples.max(axis=1), np.log(samples)
    pairs = np.triu_indices(samples.shape[1], 1)
    equal = samples[:, 1:] == samples[:, :1]
    band = np.digitize(greedy, BAND_EDGES)
    bands = range(len(BAND_EDGES) + 1)
    ratio, gap = greedy / longest, longest - greedy
    mean, spread = logs.mean(axis=1), logs.std(axis=1)
    mean_band = np.digitize(mean, np.log((12, 20, 40, 80, 150, 250)))
    tails = (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95)
    patterns = [equal.all(axis=1), equal[:, :2].all(axis=1), equal.any(axis=1)]
    patterns += [samples[:, i] == samples[:, j] for i, j in ((1, 2), (1, 3), (2, 3))]
    return np.concatenate(
        [
            np.corrcoef(samples.T)[pairs] / 0.005,
            np.corrcoef(logs.T)[pairs] / 0.005,
            np.concatenate([equal[band == b].mean(axis=0) for b in bands[:-1]]) / 0.025,
            np.array([p.mean() for p in patterns]) / 0.01,
            np.log(np.percentile(longest, PERCENTILES)) / 0.01,
            [np.log(longest.mean()) / 0.01, (longest >= 512).mean() / 0.0033],
            np.quantile(ratio, (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)) / 0.01,
            [ratio.mean() / 0.005, (ratio == 1).mean() / 0.005],
            np.log1p(np.percentile(gap, (50, 60, 70, 75, 80, 90, 95, 99))) / 0.033,
            [np.log(gap.mean()) / 0.01],
            *(
                np.quantile(logs[band == b, k] - logs[band == b, 0], tails) / 0.1
                for k in (1, 3)
                for b in bands
            ),
            *(np.quantile(spread[mean_band == b], (0.25, 0.5, 0.75, 0.9)) / 0.067 for b in range(7)),
        ]
    )


def fit(samples: IntArray, *, rows: int = 20_000, rounds: int = 12, seed: int = 0) -> dict[str, Any]:
    """The fitted model of measured lengths: `dependence`, `lengths` and `sample_names`, ready for JSON.

    `samples` holds tokens, shape (n, 4), greedy answer first. `rows` are drawn in each evaluation; `rounds`
    bounds the steps of the least-squares search, whose start does not depend on the data. Rounded to four
    decimals. Raises InputError where `samples` has another shape, fewer than 1000 rows, a length below 1 or
    too few short or long answers to compare.
    """
    from scipy.optimize import least_squares

    if samples.ndim != 2 or samples.shape[1] != len(SAMPLE_NAMES) or len(samples) < 1000:
        raise InputError(
            f"samples: shape {samples.shape} is not (n, {len(SAMPLE_NAMES)}) with n at least 1000"
        )
    if samples.min() < 1:
        raise InputError(f"samples: length {samples.min()} is below 1")
    rarest = int(np.bincount(np.digitize(samples[:, 0], BAND_EDGES), minlength=len(BAND_EDGES) + 1).min())
    if rarest < MIN_BAND_ROWS:
        raise InputError(
            f"samples: a band of {BAND_EDGES} has {rarest} greedy lengths, below {MIN_BAND_ROWS}"
        )
    normals = np.random.default_rng(seed).standard_normal((rows, NORMALS_PER_ROW))
    target = _moments(samples)

    def residuals(x: FloatArray) -> FloatArray:
        drawn, _ = _simulate(_dependence(x), samples, normals)
        # Curves with kinks would follow noise: their second differences are penalised.
        return np.concatenate([_moments(drawn) - target, np.diff(x[:7], 2), 0.5 * np.diff(x[7:13], 2)])

    def jacobian(x: FloatArray) -> FloatArray:
        # Lengths are whole numbers, so the statistics move in steps; differences must be wide beside them.
        at = residuals(x)
        return np.stack([(residuals(x + _STEP * e) - at) / _STEP for e in np.eye(len(x))], axis=1)

    solution = least_squares(residuals, _START, jac=jacobian, max_nfev=rounds, x_scale=0.3).x
    dependence = _dependence(np.round(solution, 4))
    # Thresholds far out in a tail rest on few rows, so they get many more than the search needs.
    many = np.random.default_rng(seed + 1).standard_normal((THRESHOLD_ROWS, NORMALS_PER_ROW))
    _, thresholds = _simulate(dependence, samples, many)
    dependence["spread"]["shared_with_greedy"] = round(dependence["spread"]["shared_with_greedy"], 4)
    return {
        "sample_names": list(SAMPLE_NAMES),
        "dependence": dependence,
        "lengths": {
            "floor_tokens": int(samples.min()),
            "cap_tokens": int(samples.max()),
            "grid_tokens": list(GRID_TOKENS),
            "score_thresholds": np.round(thresholds, 4).tolist(),
        },
    }


def _statistics(samples: IntArray) -> dict[str, Any]:
    """What the goodness of fit reports, unscaled: tokens, shares and correlations."""
    percentiles = [np.percentile(samples[:, k], PERCENTILES) for k in range(samples.shape[1])]
    longest = samples.max(axis=1)
    pairs = np.triu_indices(samples.shape[1], 1)
    values = {
        "mean_tokens": samples.mean(axis=0),
        "percentiles_tokens": percentiles,
        "share_at_512": (samples >= 512).mean(axis=0),
        "pearson": np.asarray(np.corrcoef(samples.T))[pairs],
        "log_pearson": np.asarray(np.corrcoef(np.log(samples).T))[pairs],
        "max_mean_tokens": longest.mean(),
        "max_percentiles_tokens": np.percentile(longest, PERCENTILES),
        "max_share_at_512": (longest >= 512).mean(),
        "max_minus_greedy_mean_tokens": (longest - samples[:, 0]).mean(),
        "max_minus_greedy_percentiles_tokens": np.percentile(longest - samples[:, 0], PERCENTILES),
        "greedy_over_max_mean": (samples[:, 0] / longest).mean(),
        "greedy_over_max_percentiles": np.percentile(samples[:, 0] / longest, PERCENTILES),
        "share_equal_to_greedy": (samples[:, 1:] == samples[:, :1]).mean(axis=0),
        "share_all_equal": (samples == samples[:, :1]).all(axis=1).mean(),
    }
    return {name: np.round(value, 4).tolist() for name, value in values.items()}


def goodness_of_fit(
    fitted: dict[str, Any], samples: IntArray, seed: int, rows: int = 400_000
) -> dict[str, Any]:
    """Statistics of `samples` beside those of `rows` rows drawn from `fitted`, and the worst deviations.

    `samples` holds tokens, shape (n, 4). Relative deviations of percentiles leave out half a token, the
    rounding of a whole length.
    """
    data, model = _statistics(samples), _statistics(draw_samples(fitted, rows, np.random.default_rng(seed)))

    def absolute(name: str) -> float:
        return float(np.abs(np.subtract(model[name], data[name])).max())

    def relative(name: str, forgiven: float = 0.0) -> float:
        off = np.maximum(np.abs(np.subtract(model[name], data[name])) - forgiven, 0)
        return float((off / np.asarray(data[name])).max())

    worst = {
        "mean_relative": relative("mean_tokens"),
        "percentiles_relative": relative("percentiles_tokens", 0.5),
        "share_at_512": absolute("share_at_512"),
        "pearson": absolute("pearson"),
        "log_pearson": absolute("log_pearson"),
        "max_mean_relative": relative("max_mean_tokens"),
        "max_percentiles_relative": relative("max_percentiles_tokens", 0.5),
        "max_share_at_512": absolute("max_share_at_512"),
        "max_minus_greedy_mean_relative": relative("max_minus_greedy_mean_tokens"),
        "max_minus_greedy_percentiles_tokens": absolute("max_minus_greedy_percentiles_tokens"),
        "greedy_over_max_mean": absolute("greedy_over_max_mean"),
        "greedy_over_max_percentiles": absolute("greedy_over_max_percentiles"),
        "share_equal_to_greedy": absolute("share_equal_to_greedy"),
        "share_all_equal": absolute("share_all_equal"),
    }
    rounded = {name: round(value, 4) for name, value in worst.items()}
    return {"rows_drawn": rows, "seed": seed, "worst": rounded, "data": data, "model": model}


def read_samples(path: Path) -> IntArray:
    """The four measured lengths of every row of the paper's length file, in tokens, shape (n, 4).

    Raises InputError where the file is missing, is no JSON, or lacks a length.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return np.array([[int(row[f"L_{name}"]) for name in SAMPLE_NAMES] for row in rows], dtype=np.int64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a file of response lengths ({type(error).__name__}: {error})"
        ) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Fit the file that the arguments name and write the model; 0 when written, 2 for bad input."""
    parser = argparse.ArgumentParser(description="Fit the alpaca-vicuna generator to measured lengths.")
    parser.add_argument("file", type=Path, help="the paper's response lengths, JSON with L_t0.0 to L_t0.7")
    parser.add_argument("--out", type=Path, required=True, help="where to write the model")
    parser.add_argument("--date", default=None, help="date of the fit for the provenance (default: today)")
    arguments = parser.parse_args(argv)
    try:
        samples = read_samples(arguments.file)
        fitted = fit(samples)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    quality = goodness_of_fit(fitted, samples, seed=1)
    provenance = {
        "source": SOURCE,
        "commit": SOURCE_COMMIT,
        "sha256": hashlib.sha256(arguments.file.read_bytes()).hexdigest(),
        "rows": len(samples),
        "fit_date": arguments.date or datetime.date.today().isoformat(),
        "method": METHOD,
    }
    model = {"name": "alpaca-vicuna", "provenance": provenance, **fitted, "goodness_of_fit": quality}
    # A reader never sees a half-written model: the name appears only when the file is whole.
    partial = arguments.out.with_name(f"{arguments.out.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(json.dumps(model, indent=1) + "\n", encoding="utf-8")
        partial.replace(arguments.out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        parser.exit(2, f"{arguments.out}: cannot be written ({error.strerror})\n")
    print(json.dumps(quality["worst"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
