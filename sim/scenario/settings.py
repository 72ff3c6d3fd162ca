"""The settings of a run by name: what serves, and what is replayed. The only list of them.

A setting is a field here, whose sentence is its help everywhere, and a key of `Keywords`, which types it for
the Python calls; where it takes effect is another module. Reads no files and builds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypedDict, get_origin, get_type_hints

from traces import spec
from traces.arguments import check_names, check_value, members_of
from traces.loading import sources_help
from traces.slo_classes import HELP as SLO_CLASSES_HELP
from traces.trace import Trace

from ..fleet.routers import DEFAULT_ROUTER, ROUTERS, RouterSpec
from ..hardware import overrides
from ..hardware.overrides import Overrides
from ..hardware.profile import Profile
from ..perception.predictors import Predictor
from ..perception.registry import PREDICTORS

DEFAULT_PREDICTOR = "oracle"
DEFAULT_PROFILE = "a100-80gb-vicuna-7b-transformers"
DEFAULT_TRACE = "alpaca-vicuna"

TABLES = {
    "what_ifs": overrides.HELP,
    "routers": ROUTERS.help("routers"),
    "predictors": PREDICTORS.help("predictors"),
    "sources": sources_help(),
    "slo_classes": SLO_CLASSES_HELP,
}
"""What the sentences of fields may hold in braces, from the tables that know it."""


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """What serves, and what is predicted of response lengths."""

    profile: str | Profile = DEFAULT_PROFILE
    """A shipped profile (`seqsched profile list`) or a JSON file."""
    set: Overrides = None
    """{what_ifs}"""
    kv_blocks: int | None = None
    """KV cache in blocks of --block-size tokens, as a vLLM log states them, in place of the profile's
    capacity.
    """
    block_size: int | None = None
    """Tokens of a KV block, 16 by default: vLLM's --block-size, SGLang's --page-size, TensorRT-LLM's
    tokens_per_block.
    """
    kv_tier: str | None = None
    """Slower memory for KV blocks beside each replica's own, as cpu:64GiB@50GB/s,disk:1TiB@5GB/s:
    `cpu:SIZE@RATE[,disk:SIZE@RATE][,blocking][,arc]`; blocking: iterations wait for what is fetched; arc: CPU
    memory gives up blocks by ARC in place of LRU. Needs prefix_caching=on.
    """
    predictor: str | Predictor = DEFAULT_PREDICTOR
    """Length predictor {predictors}"""
    seed: int = 0
    """Seed of everything random: arrivals, lengths, predictions, routing, failures."""
    replicas: int = 1
    """Accelerators that serve side by side."""
    router: RouterSpec = DEFAULT_ROUTER
    """Which of them serves a request, {routers}"""
    fleet: str | Sequence[Profile] | None = None
    """Profiles of a mixed fleet, `NAME*COUNT;NAME*COUNT`, in place of --profile and --replicas."""
    mtbf_s: float | None = None
    """Mean seconds between failures of a replica (exponential); needs --mttr-s."""
    mttr_s: float | None = None
    """Mean seconds of a repair (exponential)."""
    failures: str | Path | None = None
    """Outages by schedule: a table with the columns replica, down_s, up_s."""
    startup_s: float = 0.0
    """Seconds that a repaired replica takes to load its weights."""


@dataclass(frozen=True, kw_only=True)
class WorkloadSettings:
    """Which requests are replayed, when they arrive, and what makes one good."""

    trace: str | Trace = DEFAULT_TRACE
    """{sources}"""
    time_unit: str | None = None
    """Unit of the arrival times in a file: s, ms, us or ns; default: that in the column's name, else the one
    that is plausible.
    """
    num_prompts: int | None = None
    """Replay the first N requests of the trace."""
    sample_seed: int | None = None
    """Take them from the seeded permutation of the trace, in that order."""
    request_rate: float | None = None
    """Requests per second; inf: all at once; default: the trace's own times, or all at once where it has
    none.
    """
    burstiness: float = 1.0
    """Shape of the gamma distribution of gaps: 1 is Poisson, below 1 burstier (vLLM's meaning); unless 1, the
    gaps are rescaled to keep the rate. vLLM's benchmark rescales Poisson gaps too; here chance decides.
    """
    time_scale: float = 1.0
    """Multiply the trace's own arrival times; 0.1 is ten times the traffic."""
    prompt_scale: float = 1.0
    """Multiply the prompt lengths."""
    output_scale: float = 1.0
    """Multiply the output lengths, predictions and cap included."""
    max_concurrency: int | None = None
    """Most unfinished requests at a time; others are held back by the client."""
    max_new_tokens: int | None = None
    """Cap on output tokens; default: the trace's, else 512 or its longest output."""
    cap: str = "auto"
    """Each request's cap, at most --max-new-tokens where that is given: column (max_tokens of the trace), own
    (its answer's length, as vLLM's benchmark sends), shared (--max-new-tokens for all), or auto (column where
    there is one, else shared).
    """
    slo_classes: str | None = None
    """{slo_classes}"""
    goodput: Mapping[str, float] | Iterable[str] | None = None
    """Bounds METRIC:MS that a good request meets, such as ttft:2000 tpot:100 e2el:30000."""


@dataclass(frozen=True, kw_only=True)
class Settings(WorkloadSettings, MachineSettings):
    """Everything that a run depends on but its policy."""


class PlanKeywords(TypedDict, total=False):
    """The settings, as keyword arguments, that `plan` takes as they are."""

    set: Overrides
    kv_blocks: int | None
    block_size: int | None
    kv_tier: str | None
    predictor: str | Predictor
    seed: int
    router: RouterSpec
    fleet: str | Sequence[Profile] | None
    mtbf_s: float | None
    mttr_s: float | None
    failures: str | Path | None
    startup_s: float
    time_unit: str | None
    num_prompts: int | None
    sample_seed: int | None
    time_scale: float
    prompt_scale: float
    output_scale: float
    max_concurrency: int | None
    max_new_tokens: int | None
    cap: str
    slo_classes: str | None
    goodput: Mapping[str, float] | Iterable[str] | None


class Keywords(PlanKeywords, total=False):
    """All settings but the trace, as keyword arguments; a plan asks for these in its own way, or for them."""

    profile: str | Profile
    replicas: int
    request_rate: float | None
    burstiness: float


def read_settings(trace: str | Trace, given: Mapping[str, Any]) -> Settings:
    """The settings with these values, and the defaults of all others.

    InputError for a name that is none, and for a value of another type than its setting has.
    """
    check_names(given, [field.name for field in fields(Settings)])
    for name, value in (("trace", trace), *given.items()):
        check_value(name, value, _hints()[name])
    return Settings(trace=trace, **given)


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings)


def kinds_of(hint: Any) -> list[Any]:
    """The types that a field may hold, without their parameters: `Mapping` for `Mapping[str, float]`."""
    return [get_origin(member) or member for member in members_of(hint)]


def sentences(kind: type) -> dict[str, str]:
    """Field name -> the sentence under it, the tables filled in, of a dataclass and of its bases."""
    return {name: text.format_map(TABLES) for name, text in spec.sentences(kind).items()}
