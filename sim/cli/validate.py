"""`seqsched validate`: how far the simulation is off what was measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from traces.trace import ALL_CLASSES

from ..results.caps import cap_texts
from ..results.slo_metrics import OF_CLASS, OWN_SLOS
from ..scenario.settings import Settings
from . import show
from .options import Several, flags
from .serving import NO_SERVER, ServerFlags, read_server, with_server

if TYPE_CHECKING:
    from ..studies.server_log import Against
    from ..studies.tolerance import Judgement

    Flags = Settings
else:
    Flags = flags(Settings, without=("trace",))

DEFAULT = Flags()


def validate(
    flags: Flags = DEFAULT,
    serving: ServerFlags = NO_SERVER,
    *,
    against: Path,
    policy: str | None = None,
    tolerance: Several = (),
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    save_result: Path | None = None,
) -> None:
    """Replay the requests in a log of your own server and compare every metric with what was measured.

    Requests, lengths and arrival times are the log's: flags that would change them are refused. With
    --tolerance the exit status is 1 where a figure errs by more than its bound.

    Parameters
    ----------
    against
        Table with the columns request_id, arrival_s, prompt_tokens, output_tokens, ttft_ms, tpot_ms, e2el_ms.
    policy
        The settings of the server, such as continuous:max_num_seqs=256,max_num_batched_tokens=2048 (default:
        continuous, or that of --server); with async_scheduling=on, as vLLM has it, unless it says off.
    tolerance
        Largest errors in percent, KIND:PERCENT: of mean and p99 of ttft, tpot and e2el always, of the output
        throughput where the server was saturated; those not named are ttft:15 tpot:6 e2el:8 throughput:5. A
        number alone stands for all that are not named.
    json_
        Print measured, predicted and error as one JSON object.
    save_result
        Write that object to this file.
    """
    from ..studies.server_log import against as compare_with_log
    from ..studies.tolerance import BELOW_SATURATION, judge, parse_tolerances

    tolerances = parse_tolerances(tolerance) if tolerance else None
    server = read_server(serving)
    if policy is None:
        policy = "continuous" if server is None else server.policy
    comparison = compare_with_log(against, policy=policy, **with_server(server, flags))
    judged = [] if tolerances is None else judge(comparison, tolerances)
    content = comparison.to_json()
    if tolerances is not None:
        bounds = {each.figure: {"percent": each.bound, "holds": each.holds} for each in judged}
        content |= {"tolerance": bounds, "is_saturated": comparison.is_saturated}
    text = json.dumps(content, indent=2, allow_nan=False)
    if save_result is not None:
        from traces.files import atomic_write

        with atomic_write(save_result) as file:
            file.write(text + "\n")
    if json_:
        print(text)
    else:
        _print_table(comparison, judged)
    for note in comparison.notes:
        print(f"seqsched: note: {against}: {note}", file=sys.stderr)
    for text in cap_texts(comparison.result.summary):
        print(f"seqsched: note: {against}: {text}", file=sys.stderr)
    if judged and not comparison.is_saturated:
        print(f"seqsched: note: {against}: {BELOW_SATURATION}", file=sys.stderr)
    too_far = [each for each in judged if not each.holds]
    for each in too_far:
        print(f"seqsched: {each}", file=sys.stderr)
    if too_far:
        sys.exit(1)


def _print_table(comparison: Against, judged: Sequence[Judgement]) -> None:
    """A row per metric: measured, predicted, error, and the bound where there is any."""
    from rich.table import Table

    print(show.title(comparison.result.summary))  # as the title of a narrow table it would be broken
    table = Table()
    bounds = {each.figure: f"{each.bound:g} %{'' if each.holds else ': exceeded'}" for each in judged}
    for heading in ("figure", "measured", "predicted", "error", *(["bound"] if judged else [])):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for key, measured in comparison.measured.items():
        predicted, error = comparison.predicted[key], comparison.errors[key]
        cells = (show.figure(measured), show.figure(predicted), f"{error:+.1%}")
        table.add_row(key, *cells, *([bounds.get(key, "–")] if judged else []))
    for name, (share, predicted_share) in comparison.within.items():
        key = OWN_SLOS[0].key if name == ALL_CLASSES else f"{OF_CLASS}{name}"
        points = f"{100 * (predicted_share - share):+.1f} points"
        table.add_row(key, f"{share:.1%}", f"{predicted_share:.1%}", points, *(["–"] if judged else []))
    show.console().print(table)
