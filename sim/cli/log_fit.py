"""`seqsched calibrate --log`: fit a profile to what clients saw, and print how well."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import show

if TYPE_CHECKING:
    from ..studies.log_fit import LogFit


def fit_to_logs(logs: Sequence[Path], out: Path, *, policy: str | None, **options: Any) -> None:
    """Fit, write the profile to `out`, print its errors; `options` as for `studies.log_fit.fit_logs`."""
    from ..studies.log_fit import fit_logs

    show.check_file(out)
    with show.bar("fitting") as progress:
        fitted = fit_logs(logs, policy=policy or "continuous", on_progress=progress, **options)
    fitted.profile.save(out)
    _print_table(fitted)
    for note in fitted.notes:
        print(f"seqsched: note: {note}", file=sys.stderr)
    show.wrote([out])


def _rate(rate: float) -> str:
    return show.figure(rate) if isfinite(rate) else "all at once"


def _print_table(fitted: LogFit) -> None:
    """A row per log: mean latencies measured, and how far off the fit is; then what is uncertain."""
    from rich.table import Table

    profile = fitted.profile
    table = Table(
        title=f"profile {profile.name} ({profile.provenance.kind}; {profile.provenance.description})",
        title_justify="left",
    )
    headings = ["requests", "per s"]
    for name in ("TTFT", "TPOT", "E2EL"):
        headings += [f"{name} ms", "fit", "left out"]
    table.add_column("log")
    for heading in headings:
        table.add_column(heading, justify="right")
    for each in fitted.errors:
        cells = [each.name, f"{each.requests:,}", _rate(each.rate)]
        for key, measured in each.measured.items():
            left_out = f"{each.left_out[key]:+.1%}" if each.left_out else "–"
            cells += [show.figure(measured), f"{each.fitted[key]:+.1%}", left_out]
        table.add_row(*cells)
    show.console().print(table)
    print("fit: error of the mean, fitted to all logs; left out: fitted to the others alone")
    for quantity, (low, high) in profile.provenance.uncertainty.items():
        print(f"{quantity}: {low:+.1%} to {high:+.1%} in 90 of 100 such fits")
