"""What the package of measured kernels says of whole servers: its estimator, and rows that others measured.

Beside `kernels` the only module that knows that package.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from sim.hardware.deployment import Deployment
from sim.hardware.kernels import PACKAGE, QUANTISATION, package_systems, require, system_of
from traces.errors import InputError


def estimate(
    deployment: Deployment,
    model: str,
    *,
    prompt_tokens: int,
    output_tokens: int,
    concurrency: int,
    chunk: int,
) -> tuple[float, float]:
    """(TTFT, TPOT) in ms as the package's own estimator has them for requests of such lengths in a closed
    loop, iterations with prefill computing `chunk` prompt tokens each.

    model: a folder with a `config.json`. Raises `InputError` without the package, and for what it cannot say.
    """
    require()
    from aiconfigurator_core.sdk import config

    estimator, parts = _estimator(deployment, model)
    runtime = config.RuntimeConfig(batch_size=concurrency, isl=prompt_tokens, osl=output_tokens)
    try:
        found = estimator.run_agg(*parts, runtime, ctx_tokens=chunk).get_result_dict()
    except Exception as error:
        raise InputError(f"profile {deployment.text}: {PACKAGE} cannot say: {error}") from error
    return float(found["ttft"]), float(found["tpot"])


@functools.lru_cache(maxsize=64)
def _estimator(deployment: Deployment, model: str) -> tuple[Any, tuple[Any, Any]]:
    """The estimator of an engine, and the model and tables that it takes."""
    from aiconfigurator_core.sdk import models, perf_database
    from aiconfigurator_core.sdk.backends.factory import get_backend
    from aiconfigurator_core.sdk.config_builders import build_model_config

    system, engine, tp, ep = system_of(deployment.gpu), deployment.engine_name, deployment.tp, deployment.ep
    number, kv = QUANTISATION[deployment.dtype], QUANTISATION[deployment.kv]
    try:
        version = str(perf_database.get_version_slots(system, engine)["current"])
        tables = perf_database.get_database(system, engine, version)
        latent = "kv_lora_rank" in json.loads(Path(model, "config.json").read_text(encoding="utf-8"))
        built = build_model_config(
            tp,
            1,
            1,
            tp // ep,
            ep,
            gemm_quant_mode=number,
            moe_quant_mode=number,
            kvcache_quant_mode=kv,
            fmha_quant_mode="bfloat16" if latent else None,
        )
        return get_backend(engine), (models.get_model(model, built, engine), tables)
    except Exception as error:
        raise InputError(f"profile {deployment.text}: {PACKAGE} cannot say: {error}") from error


def measured_servers() -> Path:
    """The package's table of TTFT and TPOT of whole servers, which others measured."""
    require()
    return package_systems() / "silicon_sample.csv"
