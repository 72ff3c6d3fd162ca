"""What a server's command or configuration comes to: a policy, a profile, and what of it has no effect.

server("vllm serve meta-llama/Llama-3.1-8B-Instruct --max-num-seqs 256", gpu="h200").settings
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sim.hardware import kernels
from sim.hardware.composed import config_for, num_experts
from sim.hardware.datasheets import GPUS, gpu_key
from sim.hardware.deployment import Deployment
from sim.hardware.hugging_face import dtype_of
from sim.hardware.model_shape import MODELS
from sim.hardware.what_if import BLOCK_SIZE, MAX_BLOCK_SIZE
from sim.servers.command import ENGINES, engine_and_flags
from sim.servers.flag import Flag, Reading
from traces.errors import InputError
from traces.spec import nearest

DTYPES = dict.fromkeys(("auto", "bfloat16", "float16", "half"))
"""The format of what is not quantised: the checkpoint decides, and 16 bits take the same time."""
QUANTIZATIONS = {
    **dict.fromkeys(("fp8", "fbgemm_fp8", "modelopt", "modelopt_fp8", "w8a8_fp8"), "fp8"),
    **dict.fromkeys(("modelopt_fp4", "nvfp4"), "nvfp4"),
    "fp8_block_scales": "fp8-block",
    **dict.fromkeys(("compressed-tensors", "auto", "none", "no_quant")),
}
"""Formats of weights by their names; None: that of the checkpoint."""
KV_DTYPES = {"auto": None, "bfloat16": "bf16", "float16": "bf16", "none": None}
KV_DTYPES |= dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2"), "fp8")
ENDINGS = ("-instruct", "-chat-hf", "-hf", "-chat", "-v1.5", "-fp8", "-nvfp4", "-fp4", "-dynamic", "-it")


@dataclass(frozen=True)
class Server:
    """One server: `notes` say of which of its flags there is no effect here, or that they are unknown.

    `policy` and `profile` are texts as everywhere; `profile` is None without a model and a GPU. `kv_blocks`:
    where the server was told how many there are, of `block_size` tokens.
    """

    engine: str
    model: str | None
    policy: str
    profile: str | None = None
    kv_blocks: int | None = None
    block_size: int = BLOCK_SIZE
    replicas: int = 1
    notes: tuple[str, ...] = ()
    without_tables: str = ""
    """What of it has no measured kernels, so that there is no profile."""

    @property
    def shortest_first(self) -> str:
        """Its policy, but that the shortest predicted answer goes first."""
        name, _, options = self.policy.partition(":")
        kept = [part for part in options.split(",") if not part.startswith("order=")]
        return f"{name}:{','.join([*kept, 'order=shortest-predicted'])}"

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments for `simulate`: those of these that the server decides."""
        found = {"policy": self.policy, "profile": self.profile, "kv_blocks": self.kv_blocks}
        given = {name: value for name, value in found.items() if value is not None}
        not_default = {"block_size": (self.block_size, BLOCK_SIZE), "replicas": (self.replicas, 1)}
        return given | {name: value for name, (value, default) in not_default.items() if value != default}


def server(text: str, *, gpu: str | None = None) -> Server:
    """Read a command such as `vllm serve MODEL --max-num-seqs 256`, or a YAML or JSON file of an engine.

    `gpu`: on which GPU it runs (h200); its defaults, and the profile, depend on it. Raises InputError for
    what is neither, for values that are none, and for flags that contradict each other.
    """
    engine, given = engine_and_flags(text)
    flags: Mapping[str, Flag] = ENGINES[engine].FLAGS
    reading = Reading()
    for written, name, value in given:
        if name in flags:
            reading.take(written, flags[name], value)
        else:
            what = f"{written} {value}".strip()
            reading.notes.append(f"{what}: not understood{nearest(name, flags)}")
    gpu_bytes = None if gpu is None else _memory_of(gpu)
    ENGINES[engine].finish(reading, gpu, gpu_bytes)
    model = reading.engine.get("model")
    checkpoint = None if model is None else _checkpoint(known_model(model))
    if engine == "vllm":
        _divide_experts(reading, checkpoint)
    _check_layout(reading)
    _formats(reading, model, checkpoint)
    options = {"rules": engine} if engine != "vllm" else {}
    options |= reading.policy
    policy = "continuous:" + ",".join(f"{key}={_text(value)}" for key, value in options.items())
    profile = _profile(engine, model, gpu, reading)
    return Server(
        engine=engine,
        model=model,
        policy=policy,
        profile=profile,
        kv_blocks=_kv_blocks(reading),
        block_size=reading.engine.get("block_size", BLOCK_SIZE),
        replicas=reading.engine.get("replicas", 1),
        notes=tuple(reading.notes),
        without_tables=reading.engine.get("without_tables", ""),
    )


def _text(value: object) -> str:
    return "on" if value is True else "off" if value is False else str(value)


def _memory_of(gpu: str) -> int:
    """Bytes of a GPU; InputError for an unknown one."""
    key = gpu_key(gpu)
    for name, known in GPUS.items():
        if gpu_key(name) == key:
            return known.memory_bytes
    kernels.system_of(gpu)
    return kernels.MEMORY_BYTES[key]


def _check_layout(reading: Reading) -> None:
    """What cannot be simulated is refused or said."""
    engine, options = reading.engine, reading.policy
    for key, what in (("pp", "pipeline stages"), ("cp", "parts of a context")):
        if engine.get(key, 1) > 1:
            raise InputError(f"server: {engine[key]} {what} are not modelled, only 1 is")
    if engine.get("replicas", 1) < 1:
        raise InputError(f"server: {engine['replicas']} data parallel copies are not at least 1")
    tokens, seqs = options.get("max_num_batched_tokens"), options.get("max_num_seqs")
    if tokens is not None and seqs is not None and tokens < seqs:
        raise InputError(f"server: {seqs} requests at a time exceed {tokens} tokens of an iteration")
    longest = engine.get("max_model_len")
    if longest is not None and longest > 0:
        if options.get("chunked") is False and (tokens or 0) < longest and "rules" not in options:
            raise InputError(
                f"server: prompts of up to {longest} tokens exceed {tokens} tokens of an iteration, and are "
                "not split"
            )
        reading.notes.append(f"requests of more than {longest} tokens are served here, not refused")
    if not 1 <= (size := engine.get("block_size", BLOCK_SIZE)) <= MAX_BLOCK_SIZE:
        raise InputError(f"server: blocks of {size} tokens are not between 1 and {MAX_BLOCK_SIZE:,}")


class Checkpoint(NamedTuple):
    """What a model's configuration says, where it is at hand."""

    dtype: str | None
    """The format of its weights; None for one without tables."""
    has_experts: bool


def _checkpoint(model: str) -> Checkpoint | None:
    try:
        config = config_for(model)
    except InputError:  # said when a profile is composed, if one is
        return None
    try:
        return Checkpoint(dtype_of(config, model), num_experts(config) > 0)
    except InputError:
        return Checkpoint(None, num_experts(config) > 0)


def _divide_experts(reading: Reading, checkpoint: Checkpoint | None) -> None:
    """Data parallel copies of a model of experts share these under vLLM: they are one replica, whose copies
    compute attention, each with limits of its own. A model that is not known has experts if its server
    divides them.
    """
    engine, deployment = reading.engine, reading.deployment
    divides = engine.get("expert_parallel", False)
    has_experts = divides if checkpoint is None else checkpoint.has_experts
    if divides and not has_experts:
        reading.notes.append("--enable-expert-parallel: the model has no experts")
    copies = engine.get("replicas", 1)
    if has_experts and copies > 1:
        del engine["replicas"]
        deployment |= {"tp": deployment.get("tp", 1) * copies, "dp_attention": copies}
        reading.multiply(copies)
        reading.notes.append(
            "--data-parallel-size: copies share the experts; they are taken to be always alike, as one "
            f"scheduler with {copies} times the limits"
        )
    if divides and has_experts:
        deployment["ep"] = deployment.get("tp", 1)


def _formats(reading: Reading, model: str | None, checkpoint: Checkpoint | None) -> None:
    """Formats of weights and KV cache, as they were said, or as the model's name says."""
    engine, deployment = reading.engine, reading.deployment
    for key, known in (("dtype", DTYPES), ("quantization", QUANTIZATIONS), ("kv", KV_DTYPES)):
        value = engine.get(key)
        if value is None:
            continue
        if value.lower() not in known:
            reading.notes.append(f"{key} {value}: not understood")
            if key == "quantization":
                engine["without_tables"] = f"weights in {value}"
        elif key == "quantization" and checkpoint is not None and checkpoint.dtype not in (None, "bf16"):
            continue  # it names what the checkpoint is
        elif (chosen := known[value.lower()]) is not None:
            deployment["kv" if key == "kv" else "dtype"] = chosen
    if model is not None and "quantization" not in engine and known_model(model) != model:
        for ending, chosen in (("fp8", "fp8"), ("nvfp4", "nvfp4"), ("fp4", "nvfp4")):
            if model.lower().rstrip("/").removesuffix("-dynamic").endswith(f"-{ending}"):
                deployment["dtype"] = chosen
                reading.notes.append(f"{model}: weights in {chosen}, by its name")
                break


def _profile(engine: str, model: str | None, gpu: str | None, reading: Reading) -> str | None:
    if model is None or gpu is None:
        return None
    name = gpu_key(gpu)
    asked = Deployment(known_model(model), name, engine, **reading.deployment)
    if name not in kernels.SYSTEMS:
        reading.engine["without_tables"] = gpu
    if what := reading.engine.get("without_tables"):
        reading.notes.append(f"no measured kernels of {what}: a profile has to be given")
        return None
    return asked.text


def known_model(model: str) -> str:
    """The name by which a model's configuration is known here, where it has one."""
    name = model.rstrip("/").rpartition("/")[2].lower().removeprefix("meta-")
    while ending := next((end for end in ENDINGS if name.endswith(end)), None):
        name = name.removesuffix(ending)
    return name if name in MODELS else model


def _kv_blocks(reading: Reading) -> int | None:
    engine = reading.engine
    if "blocks" in engine:
        return int(engine["blocks"])
    size = engine.get("block_size", BLOCK_SIZE)
    return int(engine["kv_tokens"] // size) if "kv_tokens" in engine else None
