"""Measured servers against their simulation: rows of TTFT and TPOT, replayed as they were made.

The rows are those of the package of measured kernels. Some of them served to fit the terms of the host
(`sim/hardware/hosts`); the others are read only where they are asked for, to judge. Draws nothing.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from traces.errors import InputError
from traces.trace import Trace

from ..hardware import estimator, kernels
from ..hardware.composed import composed, config_for
from ..hardware.deployment import Deployment
from ..parallel.runner import HERE, Runner, Workers
from ..parallel.tasks import Task
from ..scenario.scenario import scenario

GPUS = {system: gpu for gpu, system in kernels.SYSTEMS.items()}
MODELS = {"Llama-3.1-70B": "llama-3.1-70b", "Llama-3.1-8B-Instruct": "llama-3.1-8b"}
"""Last part of a row's model → our name of that shape."""
DTYPES = {
    "": "bf16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8-block",
    "fp4": "nvfp4",
    "nvfp4": "nvfp4",
}
IN_BLOCKS = ("Qwen3", "DeepSeek")
"""Models whose 8-bit weights have a scale for each block."""
PROMPTS_PER_CLIENT = 10
INFERENCE_MAX = re.compile(r"source_file=(\d{4}-|db-dump)")
"""Where the rows of InferenceMAX say that they come from."""
BATCH_WAIT = "batch_wait_timeout_iters=20,batch_wait_max_tokens_ratio=0.9"
"""InferenceMAX has TensorRT-LLM wait so for larger batches, with 1,024 tokens in and out on less than 8 GPUs.
"""


@dataclass(frozen=True)
class Server:
    """One row: a deployment under a closed loop of clients, and what was measured."""

    deployment: Deployment
    prompt_tokens: int
    output_tokens: int
    """The longest prompts and answers, or the usual ones where the recipe is not known."""
    concurrency: int
    ttft_ms: float
    tpot_ms: float
    is_inference_max: bool
    """Made by the public recipe of InferenceMAX; that of others is not known."""

    @property
    def group(self) -> str:
        """Rows that are judged together."""
        d = self.deployment
        recipe = "InferenceMAX" if self.is_inference_max else "recipe unknown"
        return f"{d.model} {d.dtype}, {d.engine}, {d.gpu}, {recipe}"

    @property
    def lengths(self) -> tuple[float, float]:
        """Shortest and longest length, as shares of the row's."""
        if self.is_inference_max:
            return 0.8, 1.0
        return (0.9, 1.0) if self.deployment.engine == "sglang" else (0.95, 1.05)

    @property
    def max_num_batched_tokens(self) -> int:
        """The most tokens of an iteration."""
        return 16_384 if self.is_inference_max and self.deployment.engine == "trtllm" else 8192

    @property
    def policy(self) -> str:
        """The engine as the recipe sets it, or with its defaults."""
        engine, rules = self.deployment.engine, ""
        seqs = {"vllm": 256, "sglang": 1024, "trtllm": 2048}[engine]
        if engine == "vllm" and self.is_inference_max:
            seqs = 512 if self.deployment.gpu == "b200" else self.concurrency
        if engine != "vllm":
            rules = f",rules={engine}"
        short = self.prompt_tokens == self.output_tokens == 1024
        if engine == "trtllm" and self.is_inference_max and short and self.deployment.tp < 8:
            rules += f",{BATCH_WAIT}"
        tokens = max(self.max_num_batched_tokens, seqs)
        return f"continuous:max_num_seqs={seqs},max_num_batched_tokens={tokens},prefix_caching=off{rules}"

    def trace(self, seed: int = 0) -> Trace:
        """Ten requests for each client, which are sent as places fall free; their caps are their lengths."""
        n, rng = PROMPTS_PER_CLIENT * self.concurrency, np.random.default_rng(seed)
        low, high = self.lengths

        def drawn(tokens: int) -> np.ndarray[Any, Any]:
            return rng.integers(max(1, int(low * tokens)), max(1, int(high * tokens)) + 1, n)

        prompts, answers = drawn(self.prompt_tokens), drawn(self.output_tokens)
        return Trace(
            "closed loop", np.arange(n), prompts, answers, arrival_s=np.zeros(n), max_tokens=answers.copy()
        )


class Prediction(NamedTuple):
    """Means of TTFT and TPOT."""

    ttft_ms: float
    tpot_ms: float


class Replayed(NamedTuple):
    """A row, what the simulation says, and what the package's own estimator does."""

    server: Server
    simulated: Prediction | None
    estimated: Prediction | None
    """Of two readings of the same settings, prefill of one prompt at a time."""
    estimated_full: Prediction | None
    """The other reading: prefill that fills the iteration."""


def servers(*, judge: bool = False, path: Path | None = None) -> tuple[list[Server], Counter[str]]:
    """The rows, and how many are left out for each reason.

    Only those that the terms of the host were fitted on, unless `judge`: then only the others. Raises
    `InputError` without the package.
    """
    file, left_out, found = path or estimator.measured_servers(), Counter[str](), []
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if is_fitted(row) == judge:
                continue
            why = _unusable(row)
            if why is None:
                try:
                    found.append(_server(row))
                except InputError as error:
                    why = str(error)
            if why is not None:
                left_out[why] += 1
    return found, left_out


def is_fitted(row: Mapping[str, str]) -> bool:
    """Whether the terms of the host may rest on this row."""
    model, system, engine = _last_part(row["model_path"]), row["system"], row["backend"]
    if system == "h200_sxm":
        return model == "Llama-3.1-70B" or (model == "Llama-3.1-8B-Instruct" and engine == "sglang")
    return system == "h100_sxm" and model == "Llama-3.1-8B-Instruct" and row["tp_size"] in ("1", "2")


def _unusable(row: Mapping[str, str]) -> str | None:
    """Why a row is not replayed."""
    model, system = _last_part(row["model_path"]), row["system"]
    if system == "h200_sxm" and model == "Llama-3.1-8B-Instruct-FP8":
        return "Llama-3.1-8B-Instruct-FP8 on H200: faster than its own kernels, impossible as labelled"
    if system == "gb200" and "Qwen" in model:
        return "Qwen on GB200"
    if row["mode"] != "agg":
        return "prefill and decode on servers of their own"
    for column, what in (("pp_size", "pipeline parallel"), ("attention_dp_size", "data-parallel attention")):
        if row[column] not in ("", "1"):
            return what
    if system not in GPUS:
        return f"no tables of {system}"
    if (row["gemm_quant_mode"] or row["precision"]) not in DTYPES:
        return f"number format {row['gemm_quant_mode'] or row['precision']}"
    try:
        float(row["silicon_ttft_ms"]), float(row["silicon_tpot_ms"]), int(row["batch_size"])
    except ValueError:
        return "no measured TTFT or TPOT"
    return None


def _server(row: Mapping[str, str]) -> Server:
    is_inference_max = INFERENCE_MAX.search(row["silicon_data_source"]) is not None
    dtype, tp = DTYPES[row["gemm_quant_mode"] or row["precision"]], int(row["tp_size"])
    if dtype == "bf16" and "FP8" in row["model_path"]:
        dtype = "fp8"
    if dtype == "fp8" and any(family in row["model_path"] for family in IN_BLOCKS):
        dtype = "fp8-block"
    expert_groups = int(row["moe_ep_size"] or 1) or 1
    deployment = Deployment(
        MODELS.get(_last_part(row["model_path"]), row["model_path"]),
        GPUS[row["system"]],
        row["backend"],
        tp,
        expert_groups if tp % expert_groups == 0 else 1,
        dtype=dtype,
        kv="fp8" if is_inference_max and dtype != "bf16" else "bf16",
    )
    return Server(
        deployment,
        int(row["isl"]),
        int(row["osl"]),
        int(row["batch_size"]),
        float(row["silicon_ttft_ms"]),
        float(row["silicon_tpot_ms"]),
        is_inference_max,
    )


def _last_part(model: str) -> str:
    return model.rsplit("/", 1)[-1]


def simulate(server: Server) -> Prediction | None:
    """What the simulation says of it; None where its profile cannot be composed, or no request completes."""
    try:
        profile = composed(server.deployment.text)
    except InputError:
        return None
    shared = scenario(server.trace(), profile=profile, max_concurrency=server.concurrency, cap="own")
    summary = shared.run(server.policy).summary
    ttft, tpot = summary["mean_ttft_ms"], summary["mean_tpot_ms"]
    return None if ttft is None or tpot is None else Prediction(ttft, tpot)


def estimate(server: Server, *, full: bool = False) -> Prediction | None:
    """What the package's own estimator says of it, with prefill of one prompt at a time or, where `full`, as
    many prompt tokens as an iteration may have.
    """
    low, high = server.lengths
    prompt, answer = (round((low + high) / 2 * n) for n in (server.prompt_tokens, server.output_tokens))
    chunk = min(server.max_num_batched_tokens, prompt * server.concurrency) if full else prompt
    try:
        ttft, tpot = estimator.estimate(
            server.deployment,
            _folder(server.deployment.model).name,
            prompt_tokens=prompt,
            output_tokens=answer,
            concurrency=server.concurrency,
            chunk=chunk,
        )
    except InputError:
        return None
    return Prediction(ttft, tpot) if math.isfinite(ttft) and tpot > 0 else None


@functools.cache
def _folder(model: str) -> tempfile.TemporaryDirectory[str]:
    """A folder with the configuration of a model, for as long as the process runs."""
    folder = tempfile.TemporaryDirectory(prefix="seqsched-")
    Path(folder.name, "config.json").write_text(json.dumps(config_for(model)), encoding="utf-8")
    return folder


def replay(rows: Sequence[Server]) -> list[Replayed]:
    """All that is said of these rows, which are best of one deployment: its profile is composed once.

    Where the tables have no attention over a 16-bit KV cache beside quantised weights, it is an 8-bit one.
    """
    if rows[0].deployment.kv == "bf16" and not _is_composable(rows[0].deployment):
        narrow = replace(rows[0].deployment, kv="fp8")
        if _is_composable(narrow):
            rows = [replace(row, deployment=replace(row.deployment, kv="fp8")) for row in rows]
    return [Replayed(row, simulate(row), estimate(row), estimate(row, full=True)) for row in rows]


def _is_composable(deployment: Deployment) -> bool:
    try:
        composed(deployment.text)
    except InputError:
        return False
    return True


def replay_all(rows: Sequence[Server], workers: Workers = HERE) -> list[Replayed]:
    """All that is said of all rows, in parallel, in the order of their deployments.

    Raises `InputError` where a process dies.
    """
    by_deployment: dict[str, list[Server]] = {}
    for row in rows:
        by_deployment.setdefault(row.deployment.text, []).append(row)
    tasks = [Task(text, (group,)) for text, group in by_deployment.items()]
    with Runner(workers) as runner:
        found = {ended.key: ended.value_or_raise(ended.key) for ended in runner.run(replay, tasks)}
    return [row for text in by_deployment for row in found[text]]


FIGURES = ("ttft", "tpot", "rate")


def figures(server: Server, ttft_ms: float, tpot_ms: float) -> dict[str, float]:
    """TTFT and TPOT in ms, and requests/s, which follow from them: the clients of a closed loop over the time
    that a request takes (Little's law).
    """
    low, high = server.lengths
    answer = (low + high) / 2 * server.output_tokens
    e2el_ms = ttft_ms + tpot_ms * max(0.0, answer - 1)
    return {"ttft": ttft_ms, "tpot": tpot_ms, "rate": 1e3 * server.concurrency / e2el_ms}


def errors(rows: Iterable[Replayed], by: str) -> dict[str, float]:
    """Figure → median of |predicted / measured - 1| over the rows that have the prediction `by`."""
    found: dict[str, list[float]] = {name: [] for name in FIGURES}
    for row in rows:
        prediction: Prediction | None = getattr(row, by)
        if prediction is None:
            continue
        measured = figures(row.server, row.server.ttft_ms, row.server.tpot_ms)
        predicted = figures(row.server, *prediction)
        for name in FIGURES:
            found[name].append(abs(predicted[name] / measured[name] - 1))
    return {name: float(np.median(values)) for name, values in found.items() if values}
