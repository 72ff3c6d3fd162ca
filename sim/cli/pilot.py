"""`seqsched pilot`: what other policies, slots or machines would have done with the requests of a log."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..perception.registry import PREDICTORS
from ..results.slo_metrics import shares_text
from ..scenario.policies import POLICIES
from ..studies.pilot import OWN
from ..studies.pilot import POLICIES as TRIED_POLICIES
from ..studies.slot_log import FIRST
from . import show
from .options import Several

if TYPE_CHECKING:
    from ..studies.pilot import Pilot, Replayed

FAR_OFF = 0.1
"""How far a replay of what ran may be off what was measured before that is said."""
PolicyFlag = Annotated[
    str, Parameter(help=f"Policies with semicolons between them, each {POLICIES.help('policies')}")
]
PredictorFlag = Annotated[
    str | None,
    Parameter(
        help="Whose predictions are used; default: predicted_tokens of the log. "
        + PREDICTORS.help("predictors")
    ),
]
TRIED = ";".join(TRIED_POLICIES)


def pilot(
    log: Path,
    /,
    *,
    policies: PolicyFlag = TRIED,
    ran: str = FIRST,
    ran_slots: int | None = None,
    slots: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (),
    profiles: Several = (),
    predictor: PredictorFlag = None,
    replicates: int = 20,
    time_unit: str | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Replay a log under other policies, slots and machines, and say what each would gain, and how surely.

    What the server takes is fitted to the log; predictions err as they did. With each policy that goes by
    lengths perfect predictions are tried too.

    Parameters
    ----------
    log
        Of `seqsched serve --log`, or any table with arrival_s, prompt_tokens, output_tokens, ttft_ms,
        tpot_ms, e2el_ms; scheduled_s says when requests were sent to the server, predicted_tokens what was
        predicted.
    ran
        Policy under which the log was made.
    ran_slots
        Requests that the server worked on at a time, where it queued by itself (vLLM: --max-num-seqs);
        default: the most that were with it at once.
    slots
        Numbers of requests that the server works on at a time, to compare; default: as it ran.
    profiles
        Other machines, profiles by name or file, beside the server of the log.
    replicates
        Logs of the same arrivals, with requests drawn from this one, by which gains are said to be sure.
    time_unit
        Unit of the arrival times: s, ms, us or ns.
    json_
        Print everything as one JSON object.
    """
    from ..studies.pilot import pilot as replay

    with show.bar("replaying") as progress:
        found = replay(
            log,
            policies=policies,
            ran=ran,
            ran_slots=ran_slots,
            slots=slots,
            profiles=profiles,
            predictor=predictor,
            replicates=replicates,
            time_unit=time_unit,
            on_progress=progress,
        )
    if json_:
        print(json.dumps(found.to_json(), indent=2, allow_nan=False))
    else:
        _print_table(found)
    for note in found.notes:
        print(f"seqsched: note: {log}: {note}", file=sys.stderr)
    off = found.replayed["mean_e2el_ms"] / found.measured["mean_e2el_ms"] - 1
    if abs(off) > FAR_OFF:
        why = f"is it {found.ran.policy}, with {found.slots} slots, that ran (--ran, --ran-slots)?"
        print(f"seqsched: note: {log}: the replay of what ran is off by {off:+.1%}; {why}", file=sys.stderr)


def _print_table(found: Pilot) -> None:
    """How well what ran is replayed, how good predictions were, then a row per replay."""
    from rich.table import Table

    slots = "" if found.slots is None else f", {found.slots} slots"
    print(f"{found.requests:,} requests of {found.log}{slots}; ran: {found.ran.policy}")
    off = {key: found.replayed[key] / value - 1 for key, value in found.measured.items()}
    print(
        f"replayed against measured: mean E2EL {off['mean_e2el_ms']:+.1%}, p99 {off['p99_e2el_ms']:+.1%}, "
        f"mean TTFT {off['mean_ttft_ms']:+.1%}"
    )
    if found.slo_attainment is not None:
        texts = (f"{when} {shares_text(shares)}" for when, shares in found.slo_attainment.items())
        print(f"within their own bounds: {', '.join(texts)}")
    if found.error is not None and found.order is not None:
        tau = show.number(found.order.kendall_tau, "{:.3f}")
        print(f"predictions in the log: error {found.error.error:.1f} tokens, Kendall tau {tau}")
    table = Table()
    longest = max((len(row.point.policy) for row in found.rows), default=0)
    table.add_column("policy", overflow="fold", min_width=min(36, longest))
    for heading in ("slots", "machine", "lengths"):
        table.add_column(heading, overflow="fold")
    headings = ("mean E2EL ms", "change", "in 90 % of logs", "p99 E2EL ms", "change")
    for heading in (*headings, *(() if found.slo_attainment is None else ("within own SLO",))):
        table.add_column(heading, justify="right")
    for row in found.rows:
        table.add_row(*_cells(row))
    show.console().print(table)


def _cells(row: Replayed) -> tuple[str, ...]:
    """One replay as cells; a change is negative where latency is shorter."""
    point, low_high = row.point, row.between["mean_e2el_ms"]
    lengths = "as in the log" if point.predictor == "trace" else point.predictor
    return (
        point.policy,
        "–" if point.slots is None else str(point.slots),
        "the server" if point.machine == OWN else point.machine,
        lengths,
        show.figure(row.latency_ms["mean_e2el_ms"]),
        _change(row.gain["mean_e2el_ms"]),
        f"{_change(low_high[1])} to {_change(low_high[0])}",
        show.figure(row.latency_ms["p99_e2el_ms"]),
        _change(row.gain["p99_e2el_ms"]),
        *(() if row.slo_attainment is None else (shares_text(row.slo_attainment),)),
    )


def _change(gain: float) -> str:
    """What a share by which latency is shorter changes it by."""
    return f"{0.0 - gain:+.1%}"
