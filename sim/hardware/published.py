"""Sets the one free constant of a profile from one published throughput; knows nothing of schedulers.

    python -m sim.hardware.published FILE --out PROFILE.json [--kernels]

makes the profile `a100-80gb-vicuna-7b-transformers` anew from the paper's response lengths (FILE is the
public `alpaca-val-10k-length.json`): the datasheet's roofline times one scale. With `--kernels` it makes
`a100-80gb-vicuna-7b-transformers-kernels`: the kernels of Vicuna-7B, which were measured on that GPU, and
one time on the host, which was not. Time is linear in either constant, so that each is a quotient.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date as Date
from pathlib import Path
from typing import TYPE_CHECKING

from sim.hardware.catalogue import load
from sim.hardware.profile import Profile, Provenance
from sim.hardware.roofline import estimate
from traces.errors import InputError

if TYPE_CHECKING:
    from traces.trace import Trace

NAME = "a100-80gb-vicuna-7b-transformers"
ON_KERNELS = "a100-80gb-vicuna-7b-transformers-kernels"
KERNELS = "a100-80gb-vicuna-7b-trtllm"
"""The profile with the measured kernels of that model on that GPU."""
PUBLISHED_REQUESTS_PER_S = 1.39
"""Vanilla batching in Zheng et al., "Response Length Perception and Sequence Scheduling", NeurIPS 2023."""

NUM_REQUESTS = 1024
SAMPLE_SEED = 42
BATCH_SIZE = 16
MAX_NEW_TOKENS = 512
EAGER_UTILIZATION = 0.9

PAPER = (
    "Zheng et al., Response Length Perception and Sequence Scheduling, NeurIPS 2023, arXiv 2305.13144; "
    "published code's vanilla run"
)
SET_BY_VANILLA = (
    f"set by the published vanilla run alone ({PUBLISHED_REQUESTS_PER_S} requests/s): "
    f"{NUM_REQUESTS} requests, the first of numpy.random.RandomState({SAMPLE_SEED}).permutation of the "
    f"validation file, their lengths at temperature 0 cut at {MAX_NEW_TOKENS}, in that order in padded "
    f"batches of {BATCH_SIZE}, each running to its longest output; prompt lengths, which the file lacks, "
    "drawn with seed 0 from the stated Alpaca distribution. No other published figure was used. Memory from "
    "the datasheet, not measured."
)
"""How either constant was found, as the profiles say it."""

Batch = tuple[int, int, int]
"""(rows, padded prompt tokens, iterations), the prefill being the first iteration."""


def vanilla_batches(trace: Trace, batch_size: int = BATCH_SIZE) -> list[Batch]:
    """Padded batches of `batch_size` consecutive requests, as long as their longest prompt and output."""
    starts = range(0, len(trace), batch_size)
    parts = [slice(start, start + batch_size) for start in starts]
    return [
        (
            len(trace.prompt_tokens[part]),
            int(trace.prompt_tokens[part].max()),
            int(trace.output_tokens[part].max()),
        )
        for part in parts
    ]


def padded_seconds(profile: Profile, batches: Sequence[Batch]) -> float:
    """Predicted seconds for the batches one after another, every row at its batch's padded length."""
    cost = profile.step_cost
    return sum(
        cost.padded_prefill_s(rows, prompt) + cost.decode_run_s(rows, rows * prompt, iterations - 1)
        for rows, prompt, iterations in batches
    )


def throughput_scale(
    profile: Profile, batches: Sequence[Batch], num_requests: int, published_requests_per_s: float
) -> float:
    """The factor on every time at which the batches finish `published_requests_per_s` requests a second.

    Raises `InputError` for no batches or requests, or a throughput that is not above 0.
    """
    return _published_s(batches, num_requests, published_requests_per_s) / padded_seconds(profile, batches)


def host_ms(
    profile: Profile, batches: Sequence[Batch], num_requests: int, published_requests_per_s: float
) -> float:
    """The milliseconds on the host, the same in every iteration, at which the batches finish
    `published_requests_per_s` requests a second.

    Raises `InputError` for no batches or requests, for a throughput that is not above 0, and for one that
    needs iterations shorter than those of the profile.
    """
    published_s = _published_s(batches, num_requests, published_requests_per_s)
    left = published_s - padded_seconds(profile.with_host(0.0), batches)
    if left < 0:
        raise InputError(
            f"published throughput: {published_requests_per_s!r} is above that of the kernels alone"
        )
    return 1e3 * left / sum(batch[2] for batch in batches)


def _published_s(batches: Sequence[Batch], num_requests: int, published_requests_per_s: float) -> float:
    """The seconds that the published run took."""
    if not batches:
        raise InputError("batches: 0 is below 1")
    if num_requests < 1:
        raise InputError(f"num_requests: {num_requests} is below 1")
    if not 0 < published_requests_per_s < float("inf"):
        raise InputError(f"published throughput: {published_requests_per_s!r} is not above 0 and finite")
    return num_requests / published_requests_per_s


def a100_transformers(trace: Trace, date: str | None = None) -> Profile:
    """The published profile, from the paper's response lengths as `traces.load` reads them.

    date: ISO, by default today. Raises `InputError` where the trace has fewer than 1024 requests.
    """
    pure = estimate("vicuna-7b", "A100-80GB", efficiency=1.0, utilization=EAGER_UTILIZATION)
    scale = throughput_scale(pure, _published_run(trace), NUM_REQUESTS, PUBLISHED_REQUESTS_PER_S)
    provenance = Provenance(
        kind="published",
        date=date or Date.today().isoformat(),
        description=(
            "Growth with batch, tokens and context is the roofline of the A100-80GB datasheet and Vicuna-7B "
            f"in fp16 at efficiency 1, times one scale, {scale:.4f}. It is {SET_BY_VANILLA}"
        ),
        source=f"{PAPER}; NVIDIA A100 datasheet",
        grid={"batch": BATCH_SIZE, "requests": NUM_REQUESTS, "scale": scale},
    )
    return replace(pure.with_scale(scale), name=NAME, engine="transformers-eager", provenance=provenance)


def a100_transformers_on_kernels(trace: Trace, date: str | None = None) -> Profile:
    """The same run on measured kernels; arguments and errors as in `a100_transformers`."""
    kernels = load(KERNELS)
    host = host_ms(kernels, _published_run(trace), NUM_REQUESTS, PUBLISHED_REQUESTS_PER_S)
    provenance = Provenance(
        kind="published",
        date=date or Date.today().isoformat(),
        description=(
            "Growth with batch, tokens and context is that of Vicuna-7B's kernels, measured one by one on an "
            f"A100-80GB under {kernels.engine} (profile {KERNELS}); attention that is not fused, and the KV "
            "cache that this engine copies in every iteration, are not in it. One constant, "
            f"{host:.2f} ms on the host in every iteration, is {SET_BY_VANILLA}"
        ),
        source=f"{PAPER}; kernels of {kernels.provenance.source}; NVIDIA A100 datasheet",
        versions=kernels.provenance.versions,
        grid={"batch": BATCH_SIZE, "requests": NUM_REQUESTS, "host_ms": host},
    )
    memory = estimate("vicuna-7b", "A100-80GB", utilization=EAGER_UTILIZATION)
    return replace(
        memory,
        name=ON_KERNELS,
        engine="transformers-eager",
        step_cost=kernels.step_cost.with_host(host),
        provenance=provenance,
    )


def _published_run(trace: Trace) -> list[Batch]:
    """The batches of the published vanilla run."""
    return vanilla_batches(trace.sample(NUM_REQUESTS, SAMPLE_SEED).with_output_cap(MAX_NEW_TOKENS))


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the profile; returns the exit status, 2 for bad input."""
    from traces.loading import load

    parser = argparse.ArgumentParser(
        prog="python -m sim.hardware.published",
        description="Set the one constant of the A100's profile by the published vanilla throughput.",
    )
    parser.add_argument("file", type=Path, help="the paper's alpaca-val-10k-length.json")
    parser.add_argument("--out", type=Path, required=True, help="profile to write")
    parser.add_argument(
        "--kernels", action="store_true", help="a host time beside measured kernels, not a scaled roofline"
    )
    options = parser.parse_args(arguments)
    make = a100_transformers_on_kernels if options.kernels else a100_transformers
    try:
        profile = make(load(options.file, seed=0))
        profile.save(options.out)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    grid = profile.provenance.grid
    constant = f"host_ms {grid['host_ms']:.4f}" if options.kernels else f"scale {grid['scale']:.6f}"
    print(f"{options.out}: {constant}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
