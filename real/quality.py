"""Does scheduling change the answers? Runs the same prompts under several policies and compares every token.

    python real/quality.py                               (tiny model on the processor, float32: must be equal)
    python real/quality.py --dtype bfloat16              (near ties may go the other way in another batch)
    python real/quality.py --lengths model --model PATH  (a real model ends its answers itself)

Decoding is greedy. Every policy is compared with the first (vanilla): exact matches, the first token that
differs, and the lengths (two-sample Kolmogorov-Smirnov). In float32 all answers must be equal, else the exit
status is 1. In half precision logits depend slightly on the size of the batch; each first difference is run
again with its logits recorded, and must be a near tie that rounding can turn, else the exit status is 1. The
last line of stdout is JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, the folder on the path is this one, whose modules must not hide others of their names.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from typing import TYPE_CHECKING, Any

from real.options import ReplayFlags
from sim.cli import run_script
from traces.errors import InputError

if TYPE_CHECKING:
    from real.answers.verdict import AnswerVerdict

POLICIES = "vanilla;sequence:vbs=table,fcr=on;sequence:vbs=memory,fcr=on"
STEPWISE_POLICIES = POLICIES + ";continuous"
"""Where the engine can mix prefill and decode."""


def quality(
    replay: ReplayFlags = ReplayFlags(),  # noqa: B008  (a frozen dataclass of defaults)
    *,
    save_result: Path | None = None,
    out: Path | None = None,
) -> None:
    """Run the same prompts under several policies and report which answers changed, and why.

    Parameters
    ----------
    save_result
        Write the full comparison to this JSON file.
    out
        Write quality.md, quality.json and a figure of the margins into this folder.
    """
    from real.answers.trial import judge

    replay.use_threads()
    if not replay.is_on_gpu() and replay.model is None:
        _say("NO GPU HERE: this runs a tiny model with random weights on the processor.")
    default = STEPWISE_POLICIES if replay.engine == "cuda-graphs" else POLICIES
    pairs = replay.pairs(default)
    if len(pairs) < 2:
        raise InputError(f"policies: {replay.policies!r}: at least 2 are needed for a comparison")
    verdict = judge(replay, pairs, _say)
    text = json.dumps(verdict.to_json(), indent=2, allow_nan=False)
    print(verdict.markdown())
    if save_result is not None:
        _write(save_result, text + "\n")
    if out is not None:
        _write_folder(verdict, text, out)
    print(json.dumps(verdict.summary(), allow_nan=False))
    for line in verdict.failures():
        _say(line)
    if verdict.failures():
        sys.exit(1)


def _write_folder(verdict: AnswerVerdict, text: str, out: Path) -> None:
    from plots.style import save
    from sim.cli import show

    folder = show.made_folder(out)
    _write(folder / "quality.json", text + "\n")
    _write(folder / "quality.md", verdict.markdown())
    save(verdict.figure(), folder / "margins.png")
    show.wrote([folder / name for name in ("quality.json", "quality.md", "margins.png")])


def _write(path: Path, text: str) -> None:
    from traces.files import atomic_write

    with atomic_write(path) as file:
        file.write(text)


def _say(text: Any) -> None:
    print(f"quality: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_script(quality)
