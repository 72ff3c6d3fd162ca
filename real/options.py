"""Flags that the scripts on a real model share; the sentence under each field is its help.

Imports no torch before it has to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from sim.hardware.what_if import BLOCK_SIZE
from traces.errors import InputError

if TYPE_CHECKING:
    from sim.hardware.profile import Profile

    from .engines.engine import Engine
    from .engines.model import LoadedModel

PREDICTORS = "oracle;tuned"
TINY_TRACE = (
    "lognormal:prompt_median=16,prompt_sigma=0.5,max_prompt_tokens=64,"
    "output_median=40,output_sigma=0.7,max_output_tokens=160"
)
"""Short enough for a processor, spread enough that the policies differ."""

TINY_TEXTS = (
    "lognormal:prompt_median=16,prompt_sigma=0.5,max_prompt_tokens=64,"
    "output_median=60,output_sigma=0.9,max_output_tokens=300"
)
"""Answers of several sizes, short enough for a processor."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Which model runs, and where."""

    model: str | None = None
    """tiny, a known shape such as vicuna-7b, a path, or a name on the hub; default: vicuna-7b on CUDA, else
    tiny.
    """
    weights: Literal["random", "pretrained"] | None = None
    """random or pretrained; default: random for a known shape."""
    dtype: str | None = None
    """float32, float16 or bfloat16; default: bfloat16 on CUDA, else float32."""
    device: str | None = None
    """cuda or cpu; default: cuda where there is one."""
    threads: int | None = None
    """Processor threads of torch; default: 1 on the processor, its own choice when calibrating."""
    seed: int = 0
    """Seed of everything random: weights, prompts, arrivals, predictions, the order of visits."""

    def is_on_gpu(self) -> bool:
        """Whether it will run on CUDA."""
        import torch

        return torch.cuda.is_available() if self.device is None else self.device.startswith("cuda")

    def use_threads(self) -> None:
        """Tell torch how many threads to take; InputError for fewer than one."""
        import torch

        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads: {self.threads} must be at least 1")
        if not self.is_on_gpu():
            torch.set_num_threads(self.threads or 1)
        elif self.threads is not None:
            torch.set_num_threads(self.threads)

    def load(self) -> LoadedModel:
        """The model itself (`real.engines.model.load`)."""
        from .engines import model

        return model.load(
            self.model, weights=self.weights, dtype=self.dtype, device=self.device, seed=self.seed
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EngineFlags(ModelFlags):
    """Which model runs, where, and on which engine."""

    engine: Literal["transformers-eager", "cuda-graphs"] = "transformers-eager"
    """transformers-eager or cuda-graphs."""
    compile_layers: bool = False
    """Compile the decoder layer (cuda-graphs on CUDA only)."""
    kv_tokens: int | None = None
    """Tokens of KV cache to allocate; default: a given profile's, else 80 % of what is free beside the
    weights (on the processor 16,384).
    """

    def check(self, adapter: Path | None = None) -> None:
        """InputError where no model could run so; asked before one is loaded."""
        if self.kv_tokens is not None and self.kv_tokens < BLOCK_SIZE:
            raise InputError(f"kv_tokens: {self.kv_tokens} must be at least {BLOCK_SIZE}, one block")
        if adapter is not None and self.compile_layers:
            raise InputError("adapter: cannot be woken and put to sleep in compiled layers (compile_layers)")

    def start(self, loaded: LoadedModel, profile: Profile | None = None) -> Engine:
        """The engine, with the KV cache that was asked for, else the profile's, else the default, in whole
        blocks.

        Raises InputError where the device has no room for it.
        """
        from torch import OutOfMemoryError

        from .calibration.calibration import default_capacity
        from .execution.run import make_engine

        tokens = self.kv_tokens or (profile.kv_tokens() if profile else default_capacity(loaded))
        tokens -= tokens % BLOCK_SIZE
        try:
            return make_engine(self.engine, loaded, tokens, compile_layers=self.compile_layers)
        except RuntimeError as error:  # on the processor it has no class of its own
            if isinstance(error, OutOfMemoryError) or "allocate memory" in str(error):
                raise InputError(f"kv_tokens: {tokens:,} do not fit the memory of {loaded.device}") from None
            raise


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReplayFlags(EngineFlags):
    """Which requests are served for real, and under which policies."""

    trace: str | None = None
    """A file, a dataset or a generator; default: alpaca-vicuna on CUDA, short lengths on the processor."""
    num_prompts: int | None = None
    """Replay the first N requests; default: 512 on CUDA, 192 on the processor."""
    sample_seed: int | None = None
    """Take them from the seeded permutation of the trace."""
    request_rate: float | None = None
    """Requests per second; default: the trace's own times, or all at once where it has none."""
    burstiness: float = 1.0
    """Shape of the gaps between arrivals: 1 is Poisson."""
    max_new_tokens: int | None = None
    """Cap on output tokens."""
    policies: str | None = None
    """Policies with semicolons between them; default: vanilla and several of sequence."""
    predictors: str = PREDICTORS
    """Predictors with semicolons between them; vanilla, which asks for none, runs under the first alone.
    Beside those of the simulator, model[:way=po|pia,adapter=on|off,fallback=median|max|N] asks the model
    itself.
    """
    lengths: Literal["trace", "model"] = "trace"
    """Answers stop at the trace's lengths (trace), or where the model ends them (model)."""
    profile: str | None = None
    """A measured profile of this machine; default: calibrate on the spot (--quality needs none)."""

    def source(self) -> str:
        """The trace, or what stands in for it here."""
        return self.trace or ("alpaca-vicuna" if self.is_on_gpu() else TINY_TRACE)

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for `sim.simulation.scenario`: which requests, when, and the seed."""
        few = None if self.trace else 512 if self.is_on_gpu() else 192
        return {
            "num_prompts": few if self.num_prompts is None else self.num_prompts,
            "sample_seed": self.sample_seed,
            "request_rate": self.request_rate,
            "burstiness": self.burstiness,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }

    def pairs(self, policies: str) -> list[tuple[str, str]]:
        """Every policy (by default `policies`) under every predictor; vanilla under the first alone.

        Raises InputError where there is none of either.
        """
        names, told = (
            [part.strip() for part in text.split(";") if part.strip()]
            for text in (policies if self.policies is None else self.policies, self.predictors)
        )
        if not names or not told:
            raise InputError("policies and predictors: at least one of each is needed")
        return [(n, p) for p in told for n in names if p == told[0] or not n.startswith("vanilla")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TextFlags:
    """Which requests the model is asked about, or learns from."""

    trace: str | None = None
    """A file, a dataset or a generator; default: alpaca-vicuna on CUDA, short lengths on the processor. Where
    it has no texts, made-up ones are asked about.
    """
    answers: Path | None = None
    """In place of a trace, a file of texts with the columns instruction and output."""
    num_prompts: int | None = None
    """Take the first N requests; default: all of what is given, else as many as stated above."""
    sample_seed: int | None = None
    """Take them from the seeded permutation of the trace."""
    max_new_tokens: int | None = None
    """Cap on output tokens, and on what is predicted."""
