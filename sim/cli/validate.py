"""`seqsched validate`: how far the simulation is off what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from traces.errors import InputError

from ..scenario.settings import Settings
from . import show
from .options import flags, keywords

if TYPE_CHECKING:
    from ..studies.server_log import Against

    Flags = Settings
else:
    Flags = flags(Settings, without=("trace",))

DEFAULT = Flags()


def validate(
    flags: Flags = DEFAULT,
    *,
    against: Path,
    policy: str = "continuous",
    tolerance: float | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    save_result: Path | None = None,
) -> None:
    """Replay the requests in a log of your own server and compare every metric with what was measured.

    Requests, lengths and arrival times are the log's: flags that would change them are refused. Exit status 1
    where the output throughput errs by more than --tolerance percent.

    Parameters
    ----------
    against
        Table with the columns request_id, arrival_s, prompt_tokens, output_tokens, ttft_ms, tpot_ms, e2el_ms.
    policy
        The settings of the server, such as continuous:max_num_seqs=256,max_num_batched_tokens=2048; with
        async_scheduling=on, as vLLM has it, unless it says off.
    tolerance
        Largest error of the output throughput, in percent.
    json_
        Print measured, predicted and error as one JSON object.
    save_result
        Write that object to this file.
    """
    from ..studies.server_log import against as compare_with_log

    if tolerance is not None and not tolerance > 0:
        raise InputError(f"tolerance: {tolerance:g} must be above 0 percent")
    comparison = compare_with_log(against, policy=policy, **keywords(flags))
    text = json.dumps(comparison.to_json(), indent=2, allow_nan=False)
    if save_result is not None:
        from traces.files import atomic_write

        with atomic_write(save_result) as file:
            file.write(text + "\n")
    if json_:
        print(text)
    else:
        _print_table(comparison)
    for note in comparison.notes:
        print(f"seqsched: note: {against}: {note}", file=sys.stderr)
    error = abs(comparison.errors["output_throughput"])
    if tolerance is not None and error > tolerance / 100:
        print(f"seqsched: output_throughput errs by {error:.1%}, more than {tolerance:g} %", file=sys.stderr)
        sys.exit(1)


def _print_table(comparison: Against) -> None:
    """A row per metric: measured, predicted, error."""
    from rich.table import Table

    table = Table(title=show.title(comparison.result.summary), title_justify="left")
    for heading in ("figure", "measured", "predicted", "error"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for key, measured in comparison.measured.items():
        predicted, error = comparison.predicted[key], comparison.errors[key]
        table.add_row(key, show.figure(measured), show.figure(predicted), f"{error:+.1%}")
    show.console().print(table)
