"""Measured times of single kernels, from the package `aiconfigurator-core` (Apache-2.0, the extra `kernels`).

With `estimator` the only module that knows that package. It uses the facade that the package calls stable
(`EngineHandle`, `estimate_kv_cache`), its list of table versions, and its tables' columns to tell what was
measured.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from sim.hardware.datasheets import GPUS, Gpu, gpu_key, known_gpu
from sim.hardware.deployment import Deployment
from sim.hardware.kv_memory import KvMemory
from traces.errors import InputError
from traces.spec import nearest

PACKAGE = "aiconfigurator-core"
VERSION = "0.12.0"
"""The version that is known to work; another is refused."""
LICENCE = "Apache-2.0"

SYSTEMS = {
    "a100-80gb": "a100_sxm",
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "l40s": "l40s",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
}
"""The package's systems by the name of their GPU."""

MEMORY_BYTES = {
    "b200": 193_273_528_320,
    "b300": 288_400_343_040,
    "gb200": 198_674_743_296,
    "gb300": 298_013_687_808,
}
"""Memory of the GPUs that no datasheet of ours has, as the package has it."""

QUANTISATION = {"bf16": "bfloat16", "fp8": "fp8", "fp8-block": "fp8_block", "nvfp4": "nvfp4"}
_MEMORY_RULES = {"vllm": ("of_total", 0.9), "sglang": ("of_total", 0.88), "trtllm": ("of_free", 0.9)}
"""Which memory an engine takes a share of, and the share by default: `gpu_memory_utilization`,
`mem_fraction_static`, and `free_gpu_memory_fraction`, which is of what the weights leave free."""
MOST_TOKENS = 8192
MOST_SEQUENCES = 256
"""Tokens and sequences of an iteration for which an engine reserves memory."""
_MOST_OPERATIONS = 64

Values = list[tuple[str, float, float, str]]
"""(operation, milliseconds, energy, where the time comes from) of several operations."""


class Origin(NamedTuple):
    """The tables that times come from."""

    system: str
    engine: str
    table: str
    """Version of the engine whose kernels were measured."""
    package: str


@dataclass(frozen=True)
class Attention:
    """What the attention tables must have of a model: heads of one GPU, and numbers of a head."""

    heads: int
    kv_heads: int
    head_dim: int


class Kernels:
    """Milliseconds of the parts of an iteration, as the kernels of one deployment were measured.

    model: the name of a configuration in the package, or a folder with a `config.json`. Counts are those of
    the whole replica; where groups of GPUs compute the attention of sequences of their own, sequences and
    tokens are spread over them evenly. Raises `InputError` without the package, and for what its tables do
    not have.
    """

    def __init__(self, deployment: Deployment, model: str, attention: Attention | None = None) -> None:
        require()
        self.deployment = deployment
        self._model, self._system, self._heads = model, system_of(deployment.gpu), attention
        self.origin = Origin(self._system, deployment.engine_name, self._table_version(), VERSION)
        self.coverage = self._covered(attention) if attention else "not looked up"
        self.shares: Counter[str] = Counter()
        """Milliseconds asked for so far, by where they come from."""
        self._handle = self._compile()
        context, generation = (self._names(phase) for phase in ("context", "generation"))
        self._attention = _places(context, "attention", "mla")
        self._decode_attention = _places(generation, "attention", "mla")
        self._logits = _places(generation, "logits")
        context_logits = _places(context, "logits")
        self._rest = [i for i in range(len(context)) if i not in (*self._attention, *context_logits)]
        self._decode_rest = [i for i in range(len(generation)) if i not in self._decode_attention]
        if not (self._attention and self._decode_attention and self._logits):
            raise InputError(f"model {deployment.model}: its operations are not of a known decoder")

    def rest_ms(self, tokens: int) -> float:
        """All but attention and logits, in an iteration with prefill that computes `tokens` tokens."""
        each = self._share(tokens)
        return self._context(self._rest, batch_size=1, s=each, x=each)

    def decode_rest_ms(self, num_seqs: int) -> float:
        """All but attention, in a decode-only iteration; logits are in it."""
        return self._generation(self._decode_rest, batch_size=self._share(num_seqs), s=2)

    def logits_ms(self, rows: int) -> float:
        """The logits of so many tokens."""
        return self._generation(self._logits, batch_size=self._share(rows), s=2)

    def prefill_attention_ms(self, chunks: int, tokens: int, history: int) -> float:
        """Attention of chunks of `tokens` tokens each, after `history` tokens that are in the cache."""
        each = self._share(chunks)
        ms = self._context(self._attention, batch_size=each, s=tokens, prefix=history)
        if chunks == each * self.deployment.dp_attention:
            return ms
        # Every group launches its kernels, and on average computes less than `each` chunks.
        launch = self._context(self._attention, batch_size=1, s=1)
        launch *= 1 - (history / (history + tokens)) ** 2
        return launch + max(0.0, ms - launch) * chunks / (each * self.deployment.dp_attention)

    def decode_attention_ms(self, num_seqs: int, context: int) -> float:
        """Attention of so many decoding sequences with `context` tokens each in the cache."""
        return self._generation(self._decode_attention, batch_size=self._share(num_seqs), s=context + 1)

    def memory(self) -> KvMemory:
        """What all GPUs hold together, by the engine's own rule."""
        from aiconfigurator_core.sdk import estimate_kv_cache

        deployment = self.deployment
        kind, share = _MEMORY_RULES[self.origin.engine]
        share = deployment.utilization or share
        found = self._asked(
            estimate_kv_cache,
            self._model,
            self._system,
            self.origin.engine,
            self.origin.table,
            max_num_tokens=self._share(MOST_TOKENS),
            max_batch_size=self._share(MOST_SEQUENCES),
            memory_fraction_kind=kind,
            memory_fraction_value=share,
            **self._options(),
        )
        total, weights = found["total_gpu_capacity_bytes"], found["memory_breakdown"]["weights_bytes"]
        utilization = share if kind == "of_total" else 1.0
        rest = int(total * utilization) - weights - found["total_kv_size_bytes"]
        num = deployment.tp
        return KvMemory(
            gpu_bytes=num * total,
            utilization=utilization,
            weight_bytes=num * weights,
            workspace_bytes=num * max(0, rest),
            bytes_per_token=deployment.attention_tp * found["kv_size_per_token_bytes"],
        )

    def _share(self, count: int) -> int:
        """Of so many, those of one group of GPUs with an attention of its own."""
        return -(-count // self.deployment.dp_attention)

    def _options(self) -> dict[str, Any]:
        deployment = self.deployment
        number = QUANTISATION[deployment.dtype]
        return {
            "tp_size": deployment.attention_tp,
            "attention_dp_size": deployment.dp_attention,
            "moe_ep_size": deployment.ep,
            "moe_tp_size": deployment.tp // deployment.ep,
            "gemm_quant_mode": number,
            "moe_quant_mode": number,
            "kvcache_quant_mode": QUANTISATION[deployment.kv],
            **({} if self._heads else {"fmha_quant_mode": "bfloat16"}),  # latent attention is measured so
        }

    def _compile(self) -> Any:
        from aiconfigurator_core.sdk import EngineHandle

        arguments = (self._model, self._system, self.origin.engine)
        return self._asked(
            EngineHandle.compile, *arguments, backend_version=self.origin.table, **self._options()
        )

    def _asked(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """What the package answers; `InputError` with its own words where it raises, whatever it raises."""
        try:
            return function(*arguments, **options)
        except Exception as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> InputError:
        said = " ".join(str(error).split())[:200]
        if said.startswith("missing system flops"):
            said = f"{self.deployment.gpu} has no operations in {self.deployment.dtype}"
        if 'kv_quant: "bfloat16"' in said and self.deployment.dtype != "bf16":
            said += " (tables of weights of fewer bits may have attention with kv=fp8 alone)"
        return InputError(f"profile {self.deployment.text}: {PACKAGE} cannot say: {said}")

    def _context(self, places: list[int], **shape: int) -> float:
        return self._sum(self._asked(self._handle.evaluate_context_ops, places, **shape))

    def _generation(self, places: list[int], **shape: int) -> float:
        return self._sum(self._asked(self._handle.evaluate_generation_ops, places, **shape))

    def _sum(self, values: Values) -> float:
        total = 0.0
        for _, ms, _, source in values:
            self.shares[source] += ms  # type: ignore[assignment]
            total += ms
        return total

    def _names(self, phase: str) -> list[str]:
        """The operations of a phase: the package lists them only by answering for each."""
        evaluate = getattr(self._handle, f"evaluate_{phase}_ops")
        names: list[str] = []
        for place in range(_MOST_OPERATIONS):
            try:
                names += [name for name, *_ in evaluate([place], batch_size=1, s=64)]
            except ValueError as error:
                if "out of range" in str(error):
                    break
                raise self._refused(error) from error
            except Exception as error:
                raise self._refused(error) from error
        return names

    def _versions(self) -> list[str]:
        """The versions of the engine with tables, the present one first."""
        from aiconfigurator_core.sdk import perf_database

        engine = self.deployment.engine_name
        slots = self._asked(perf_database.get_version_slots, self._system, engine) or {}
        if not slots.get("current"):
            raise InputError(f"engine: {PACKAGE} has no tables of {engine} on {self._system}")
        return [str(slots["current"]), *(str(v) for slot, v in slots.items() if slot != "current")]

    def _table_version(self) -> str:
        versions, asked = self._versions(), self.deployment.engine_version
        if asked is None:
            return versions[0]
        if asked not in versions:
            known = ", ".join(versions)
            raise InputError(
                f"engine: {PACKAGE} has no tables of version {asked} of {self.deployment.engine_name} on "
                f"{self._system} ({known}){nearest(asked, versions)}"
            )
        return asked

    def _covered(self, attention: Attention) -> str:
        """Whether attention of such heads was measured, of prompts as well as of decoding sequences;
        `InputError` where a table only extrapolates.
        """
        deployment, heads = self.deployment, attention.heads
        tables = package_systems() / "data" / self._system / "attention" / self.origin.engine
        # A version without a table of its own is answered from that of the present one.
        versions = (self.origin.table, self._versions()[0])
        files = [tables / version / "generation_attention_perf.parquet" for version in versions]
        file = next((file for file in files if file.exists()), None)
        if file is None:
            return "not known: the table is that of another version of the engine"
        measured = _measured_heads(file, attention, QUANTISATION[deployment.kv])
        prompts = file.with_name(file.name.replace("generation", "context"))
        if prompts.exists():
            measured &= _measured_heads(prompts, attention, QUANTISATION[deployment.kv])
        what = f"{heads} heads with {attention.kv_heads} KV heads of {attention.head_dim} on a GPU"
        if heads in measured:
            return f"measured ({what})"
        if measured and min(measured) < heads < max(measured):
            return f"interpolated between numbers of heads ({what})"
        engines = ", ".join(e for e in _MEMORY_RULES if e != self.origin.engine)
        upto = f"up to {max(measured)} heads" if measured else "not at all"
        over, ways = "", f"another engine ({engines}) or more tp"
        if deployment.kv != "bf16":
            over, ways = f", over a KV cache in {deployment.kv},", f"kv=bf16, {ways}"
        raise InputError(
            f"profile {deployment.text}: attention of {what}{over} was not measured for {self.origin.engine} "
            f"{self.origin.table} ({upto}), only extrapolated; try {ways}"
        )


def require() -> None:
    """`InputError` saying what to install where the package is not there, or is of another version."""
    found = installed()
    if found != VERSION:
        what = "is not installed" if found is None else f"is of version {found}"
        raise InputError(
            f"measured kernels: {PACKAGE} {VERSION} is needed and {what}; pip install 'seqsched[kernels]'"
        )
    logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)


def installed() -> str | None:
    """The version of the package that is installed; None without one."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def system_of(gpu: str) -> str:
    """The package's system of a GPU; `InputError` listing the GPUs with tables for an unknown one."""
    name = gpu_key(gpu)
    if name not in SYSTEMS:
        alike = [known for known in SYSTEMS if known.startswith(name) or known in name.split("-")]
        other = f"; did you mean {alike[0]}?" if alike else nearest(name, SYSTEMS)
        with suppress(InputError):
            other = f"; `seqsched profile estimate --gpu '{known_gpu(gpu).name}'` makes a roofline of it"
        raise InputError(f"gpu: {gpu!r} has no tables of measured kernels ({', '.join(SYSTEMS)} have){other}")
    return SYSTEMS[name]


def gpu_of(name: str) -> Gpu:
    """The datasheet of a GPU with tables, from our own table or else from the package's."""
    if name.lower() in (known.lower() for known in GPUS):
        return known_gpu(name)
    import yaml

    text = (package_systems() / f"{system_of(name)}.yaml").read_text(encoding="utf-8")
    numbers = yaml.safe_load(text)["gpu"]
    return Gpu(
        name.upper(),
        int(numbers["mem_capacity"]),
        float(numbers["mem_bw"]),
        float(numbers["bfloat16_tc_flops"]),
    )


def packaged_models() -> list[str]:
    """The names of the models whose configuration the package holds."""
    folder = package_systems().parent / "model_configs"
    names = (path.name.removesuffix("_config.json") for path in folder.glob("*_config.json"))
    return sorted(name.replace("--", "/") for name in names if not name.endswith("_hf_quant"))


def packaged_config(name: str) -> Path:
    """The file with the configuration of such a model."""
    return package_systems().parent / "model_configs" / f"{name.replace('/', '--')}_config.json"


def package_systems() -> Path:
    """The folder of the package's tables, by system; `InputError` without it."""
    require()
    import aiconfigurator_core

    return Path(str(aiconfigurator_core.__file__)).parent / "systems"


def _places(names: Iterable[str], *words: str) -> list[int]:
    return [i for i, name in enumerate(names) if any(word in name.split("_") for word in words)]


def _measured_heads(file: Path, attention: Attention, kv: str) -> set[int]:
    """The numbers of query heads that were measured with as many KV heads, or with as many as themselves."""
    from pyarrow import parquet

    columns = ["num_heads", "num_key_value_heads", "head_dim", "kv_cache_dtype"]
    rows = parquet.read_table(file, columns=columns).to_pydict()
    found: set[int] = set()
    for heads, kv_heads, head_dim, number in set(zip(*(rows[c] for c in columns), strict=True)):
        alike = heads if attention.heads == attention.kv_heads else attention.kv_heads
        if kv_heads == alike and head_dim == attention.head_dim and number == kv:
            found.add(int(heads))
    return found
