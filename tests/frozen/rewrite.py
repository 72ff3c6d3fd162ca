"""Rewrite the frozen outputs and texts: `python -m tests.frozen.rewrite [--reason "why figures change"]`.

An output that is on record under the present results version stays as it is; to change it, or to drop its
command, raise `RESULTS_VERSION` in `sim/version.py` and give the reason. New commands and texts need neither.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sim.version import RESULTS_VERSION

from .commands import OUTPUTS, TEXTS
from .frozen import HISTORY, digest, frozen_output, frozen_text, path_of, read_history


def next_history(
    history: Mapping[int, dict[str, Any]], version: int, outputs: Mapping[str, str], reason: str | None
) -> dict[int, dict[str, Any]]:
    """The history with these outputs, name -> text, on record under this version.

    Raises ValueError, one line, for an output that changes under a version on record, for a version that is
    not the last one or the one after it, and for a new one without a reason.
    """
    last = max(history, default=0)
    if version not in (last, last + 1):
        raise ValueError(f"RESULTS_VERSION {version} in sim/version.py must be {last} or {last + 1}")
    digests = {name: digest(text) for name, text in outputs.items()}
    entry = history.get(version)
    if entry is None:
        if not reason:
            raise ValueError(f"results version {version} is new: say with --reason why the figures change")
        return {**history, version: {"reason": reason, "outputs": digests}}
    if reason:
        raise ValueError(f"results version {version} has its reason already: raise it in sim/version.py")
    changed = [name for name, before in entry["outputs"].items() if digests.get(name) != before]
    if changed:
        raise ValueError(
            f"{', '.join(changed)}: changed, but on record under results version {version}; "
            "where that is meant, raise RESULTS_VERSION in sim/version.py and rewrite with --reason"
        )
    return {**history, version: {**entry, "outputs": digests}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every command and write what it ends with; exit status 1 where that is refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.frozen.rewrite")
    parser.add_argument("--reason", help="why figures change under the new results version")
    reason: str | None = parser.parse_args(arguments).reason
    outputs = {name: frozen_output(name) for name in OUTPUTS}
    texts = {name: frozen_text(name) for name in TEXTS}
    try:
        history = next_history(read_history(), RESULTS_VERSION, outputs, reason)
    except ValueError as error:
        sys.exit(f"rewrite: {error}")
    for folder, contents in (("outputs", outputs), ("texts", texts)):
        wanted = {path_of(name, folder): text for name, text in contents.items()}
        for path in path_of("", folder).parent.glob("*.txt"):
            if path not in wanted:
                path.unlink()
        for path, text in wanted.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
    HISTORY.write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
