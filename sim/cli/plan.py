"""`seqsched plan`: how many replicas, or how many requests per second, within an SLO; and what that costs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import Parameter

from ..results.metrics import request_latencies
from ..results.session_metrics import SESSION_BOUNDS
from ..scenario.settings import PlanKeywords, Settings
from . import show
from .options import Several, flags, keywords
from .running import Resumable
from .serving import NO_SERVER, ServerFlags, profile_of, read_server, with_memory

if TYPE_CHECKING:
    from ..planning.answer import Answer, Plan

DEFAULT_POLICIES = "continuous"

FEW_OUTAGES = 3
"""So many outages of a machine in the longest runs are enough for a plan to speak of them."""
SLO_HELP = (
    f"Bounds METRIC_STATISTIC:MS of {', '.join((*request_latencies(), *SESSION_BOUNDS))}, such as "
    "ttft_p99:2000 tpot_p99:100 e2el_mean:30s session_p95:2min; attainment:0.99 is the share of requests "
    "within the --goodput bounds, or those of their own (ttft_slo_ms, …; --slo-classes)."
)
PLAN_HELP = {
    "goodput": "What a good request meets, METRIC:MS, such as ttft:2000 tpot:100; for --slo attainment.",
    "seed": "First of the seeds.",
    "fleet": "A mix of profiles, `NAME*COUNT;NAME*COUNT`, in place of --profiles; a replica is then one copy "
    "of the whole mix.",
    "mtbf_s": "Mean seconds between failures of a machine (exponential), the same ones in fleets of every "
    "size; needs --mttr-s.",
    "failures": "Outages by schedule, from the start of every run: a table with the columns replica, down_s, "
    "up_s; rows of replicas that a fleet tried does not have are left out.",
    "num_prompts": "Plan with the first N requests of the trace alone; of a generator, draw N of them once.",
    "time_scale": "Multiply the trace's own arrival times, and so divide its own rate, which --request-rate "
    "may multiply; 0.1 is ten times the traffic.",
    "max_concurrency": "Most requests in the fleet at a time; others wait in front of it, which counts.",
}
"""Sentences of the settings that mean something else, or something more, in a plan."""

if TYPE_CHECKING:
    Flags = Settings
else:
    Flags = flags(
        Settings, without=("profile", "replicas", "request_rate", "burstiness"), help_texts=PLAN_HELP
    )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class QuestionFlags:
    """What the plan is to answer."""

    slo: Annotated[Several, Parameter(help=SLO_HELP)] = ()
    request_rate: str | None = None
    """Requests per second, also as 60/min, or a multiple of the trace's own mean rate such as 10x; default:
    its own.
    """
    max_rate: bool = False
    """Ask for the highest rate that --replicas carry."""
    replicas: int | None = None
    """Accelerators, with --max-rate, or copies of the --fleet; default: 1."""
    spare: int = 0
    """Replicas that may have failed while the rest still meets the SLO (N+1: 1)."""
    policies: str | None = None
    """Policies (`seqsched list policies`) with semicolons between them; default: continuous, or that of
    --server.
    """
    profiles: str | None = None
    """Profiles with semicolons between them; default: Llama-3.1-8B under vLLM on an H100 and on an H200."""
    price: Several = ()
    """USD per hour, NAME:USD: of one GPU by its name, such as H200:3.50, times the GPUs of a replica; of a
    replica by the name of its profile; else the profile's own.
    """
    burstiness: float | None = None
    """Draw the gaps between arrivals: 1 is Poisson, below 1 burstier; default: the trace's own gaps, scaled;
    Poisson where it has none.
    """
    num_seeds: int = 3
    """Replications of every point, to begin with."""
    num_requests: int = 1000
    """Requests of a replication, to begin with."""
    max_seeds: int = 8
    """Replications of a point that its interval leaves undecided."""
    max_requests: int = 6000
    """Requests of a replication of such a point."""
    max_replicas: int = 1024
    """Give up beyond this size."""
    confidence: float = 0.95
    """Level of the confidence intervals over seeds."""
    tolerance: float = 0.02
    """Relative width to which --max-rate is narrowed down."""


DEFAULT = QuestionFlags()
DEFAULT_FLAGS = Flags()
RUNNING = Resumable()


def plan(
    question: QuestionFlags = DEFAULT,
    flags: Flags = DEFAULT_FLAGS,
    serving: ServerFlags = NO_SERVER,
    *,
    running: Resumable = RUNNING,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    save_result: Path | None = None,
    report: Path | None = None,
) -> None:
    """Find the fewest replicas that meet an SLO, or the highest rate; exit status 1 where none does.

    Parameters
    ----------
    json_
        Print the plan alone, as one JSON object.
    save_result
        Write the plan to this JSON file.
    report
        Write a report to this HTML file: curves, Pareto front, sensitivity, assumptions.
    """
    from ..planning import plan as planning

    for path in (save_result, report, running.state):
        show.check_file(path)
    asked, settings = _with_server(serving, question, flags)
    with _counting() as count:
        result = planning.plan(
            flags.trace,
            **settings,
            **vars(asked),
            curves=report is not None,
            sensitivity=report is not None,
            on_run=count,
            **vars(running),
        )
    if save_result is not None:
        result.to_json(save_result)
    if report is not None:
        from plots.report import write

        write(result, report)
    if json_:
        print(result.to_json())
    else:
        for text in (result.headline, *result.notes):
            print(text)
        if result.reached:
            _table(result)
        for answer in result.answers:
            if answer.reason and answer is not result.headline_answer:
                print(f"{answer.policy} on {answer.profile}: {answer.reason}")
    if save_result is not None or report is not None:
        show.wrote(path for path in (save_result, report) if path is not None)
    if flags.mtbf_s is not None:
        _say_if_outages_are_few(result, flags.mtbf_s)
    if not result.reached:
        sys.exit(1)


def _with_server(
    serving: ServerFlags, question: QuestionFlags, flags: Flags
) -> tuple[QuestionFlags, PlanKeywords]:
    """The question and the settings, what they leave open as the server has it; how many copies of it there
    are is what a plan finds out.
    """
    settings = cast(PlanKeywords, keywords(flags))
    server = read_server(serving)
    if server is None:
        return replace(question, policies=question.policies or DEFAULT_POLICIES), settings
    with_memory(server, settings)
    policies = question.policies or server.policy
    profiles = question.profiles
    if profiles is None and flags.fleet is None:
        profiles = profile_of(server)
    return replace(question, policies=policies, profiles=profiles), settings


def _say_if_outages_are_few(result: Plan, mtbf_s: float) -> None:
    """A line on stderr where not even the longest runs see every machine fail a few times."""
    q = result.question
    rate = q.request_rate or (result.best.rate if result.best else None)
    longest_s = max(q.num_requests, q.max_requests) / rate if rate else math.inf
    if longest_s < FEW_OUTAGES * mtbf_s:
        print(
            f"seqsched: outages: the longest runs last {longest_s:,.0f} s, in which a machine that fails "
            f"once in {mtbf_s:,.0f} s hardly shows; give more --num-requests and --max-requests",
            file=sys.stderr,
        )


def _table(result: Plan) -> None:
    from rich.table import Table

    from ..planning.answer import point_text
    from ..planning.verdict import attainment_text

    q = result.question
    arrivals = f"{q.trace}, {q.arrivals} · predictor {q.predictor} · router {q.router}"
    title = f"{arrivals} · seeds from {q.seed}, {q.confidence * 100:g} % intervals"
    table = Table(title=title, title_justify="left")
    table.add_column("policy", overflow="fold")
    table.add_column("profile", overflow="fold")
    for heading in (
        "replicas",
        "GPUs",
        "requests\n/s",
        "busy",
        "headroom\nin rate",
        "USD\n/hour",
        "USD/million\noutput tokens",
    ):
        table.add_column(heading, justify="right")
    table.add_column("what gives way first", overflow="fold")
    table.add_column("one replica less", overflow="fold")
    table.add_column("one more", overflow="fold")
    for answer in result.answers:
        table.add_row(*_cells(answer), point_text(answer.one_less), point_text(answer.one_more))
    show.console().print(table)
    for answer in result.answers:
        if answer.point is not None and (text := attainment_text(answer.point)):
            print(f"{answer.policy} on {answer.profile}: {text}")
        if answer.undecided and answer is not result.best:
            print(f"{answer.policy} on {answer.profile}: {answer.doubt}")


def _cells(answer: Answer) -> list[str]:
    from ..planning.answer import headroom_text
    from ..planning.verdict import point_standing

    def text(value: float | None, form: str) -> str:
        return "–" if value is None else form.format(value)

    size = f"{answer.replicas}" + (f" ({answer.spare} spare)" if answer.spare else "")
    first = answer.binding
    if answer.point is not None:
        first = point_standing(answer.point, None if first == "throughput" else answer.measured)
        first = f"throughput; {first}" if answer.binding == "throughput" else first
    return [
        answer.policy,
        f"{answer.profile} ({answer.provenance})",
        size if answer.outcome == "met" else "undecided" if answer.outcome == "undecided" else "none",
        text(answer.gpus, "{}"),
        text(answer.rate, "{:.3g}"),
        text(answer.utilisation, "{:.0%}"),
        headroom_text(answer.headroom_rate),
        text(answer.cost_per_hour, "{:,.2f}"),
        text(answer.cost_per_million_output_tokens, "{:,.3g}"),
        first,
    ]


@contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """A function that shows on stderr, if that is a terminal, how many runs have been simulated."""
    if not sys.stderr.isatty():
        yield lambda number: None
        return
    from rich.console import Console

    with Console(stderr=True).status("simulating") as status:
        yield lambda number: status.update(f"simulating: {number} runs")
