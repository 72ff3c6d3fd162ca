"""`seqsched validate`: how far the simulation is off what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from traces.errors import InputError

from . import show
from .options import Machine


def validate(
    machine: Machine = Machine(),  # noqa: B008  (a frozen dataclass of defaults)
    *,
    against: Path,
    policy: str = "continuous",
    tolerance: float | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    save_result: Path | None = None,
) -> None:
    """Replay the requests in a log of your own server and compare every metric with what was measured.

    Exit status 1 where the output throughput errs by more than --tolerance percent.

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
    from rich.table import Table

    from ..studies.server_log import against as compare_with

    if tolerance is not None and not tolerance > 0:
        raise InputError(f"tolerance: {tolerance:g} must be above 0 percent")
    found = compare_with(against, policy=policy, **vars(machine))
    text = json.dumps(found.to_json(), indent=2, allow_nan=False)
    if save_result is not None:
        from traces.files import atomic_write

        with atomic_write(save_result) as file:
            file.write(text + "\n")
    if json_:
        print(text)
    else:
        table = Table(title=show.title(found.result.summary), title_justify="left")
        for heading in ("figure", "measured", "predicted", "error"):
            table.add_column(heading, justify="left" if heading == "figure" else "right")
        for key, measured in found.measured.items():
            table.add_row(
                key, show.figure(measured), show.figure(found.predicted[key]), f"{found.errors[key]:+.1%}"
            )
        show.console().print(table)
    for note in found.notes:
        print(f"seqsched: note: {against}: {note}", file=sys.stderr)
    error = abs(found.errors["output_throughput"])
    if tolerance is not None and error > tolerance / 100:
        print(f"seqsched: output_throughput errs by {error:.1%}, more than {tolerance:g} %", file=sys.stderr)
        sys.exit(1)
