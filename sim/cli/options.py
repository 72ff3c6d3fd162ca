"""Flags that several commands share; the sentence under each field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..fleet.routers import RouterName
from ..hardware import overrides
from ..perception.predictors import PREDICTORS
from ..scenario.scenario import DEFAULT_PREDICTOR, DEFAULT_PROFILE, DEFAULT_TRACE

PredictorFlag = Annotated[str, Parameter(help=f"Length predictor {PREDICTORS.help('predictors')}")]
SettingsFlag = Annotated[
    tuple[str, ...], Parameter(name="--set", consume_multiple=True, negative="", help=overrides.HELP)
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Machine:
    """What serves, and what it is told of response lengths."""

    profile: str = DEFAULT_PROFILE
    """A shipped profile (`seqsched profile list`) or a JSON file."""
    set: SettingsFlag = ()
    kv_blocks: int | None = None
    """KV cache in blocks of 16 tokens, in place of the profile's capacity."""
    predictor: PredictorFlag = DEFAULT_PREDICTOR
    seed: int = 0
    """Seed of everything random: arrivals, lengths, predictions, routing, failures."""
    replicas: int = 1
    """Accelerators that serve side by side."""
    router: RouterName = "least-requests"
    """Which of them serves a request."""
    fleet: str | None = None
    """Profiles of a mixed fleet, `NAME*COUNT;NAME*COUNT`, in place of --profile and --replicas."""
    mtbf_s: float | None = None
    """Mean seconds between failures of a replica (exponential); needs --mttr-s."""
    mttr_s: float | None = None
    """Mean seconds of a repair (exponential)."""
    failures: Path | None = None
    """Outages by schedule: a table with the columns replica, down_s, up_s."""
    startup_s: float = 0.0
    """Seconds that a repaired replica takes to load its weights."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Workload(Machine):
    """What is replayed, on which machine."""

    trace: str = DEFAULT_TRACE
    """A file, a dataset (`seqsched trace fetch`) or a generator NAME[:key=value,...]."""
    num_prompts: int | None = None
    """Replay the first N requests of the trace."""
    sample_seed: int | None = None
    """Take them from the seeded permutation of the trace, in that order."""
    request_rate: float | None = None
    """Requests per second; inf: all at once; default: the trace's own times, or all at once where it has
    none.
    """
    burstiness: float = 1.0
    """Shape of the gamma distribution of gaps: 1 is Poisson, below 1 burstier (vLLM's meaning)."""
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
    goodput: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()
    """Bounds METRIC:MS that a good request meets, such as ttft:2000 tpot:100 e2el:30000."""

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for `simulate` and `compare`, the trace aside."""
        return {name: value for name, value in vars(self).items() if name != "trace"}
