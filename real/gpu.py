"""What does a GPU that is lent for minutes have to say? One command, the most important first.

    python real/gpu.py --out out/h200            (nine minutes; the same again goes on)
    python real/gpu.py --out out/here            (without CUDA: the tiny model, to try it)

Checks attention, times copy, decode and prefill on both engines, fits a profile of each, serves requests for
real beside their simulation, and measures the paper's ratio. Each part has its own time limit, and what goes
wrong in one costs no other. `state.json` holds what has come, `report.md` the same for people, both written
after every part, and the steps files row by row. The last line of stdout is JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, the folder on the path is this one, whose modules must not hide others of their names.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from real.lent_gpu.parts import PARTS, work
from real.lent_gpu.report import markdown
from real.lent_gpu.session import Outcome, State, run_parts
from real.options import ModelFlags
from sim.cli import run_script
from traces.errors import InputError
from traces.files import atomic_write

MAX_SECONDS = 540.0


def gpu(
    flags: ModelFlags = ModelFlags(),  # noqa: B008  (a frozen dataclass of defaults)
    *,
    out: Path,
    max_seconds: float = MAX_SECONDS,
    compile_layers: bool = False,
) -> None:
    """Ask a machine what matters most, and write as it goes; called again, go on.

    Parameters
    ----------
    out
        The folder of state, report, steps files and profiles.
    max_seconds
        End after this time; what is left is for the next call.
    compile_layers
        Compile the decoder layer of cuda-graphs (CUDA only).
    """
    if not max_seconds > 0:
        raise InputError(f"max_seconds: {max_seconds:g} is not above 0")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made ({error.strerror})") from None
    state = State(out / "state.json", _about(flags, compile_layers))

    def on_outcome(name: str, outcome: Outcome) -> None:
        why = f": {outcome.why}" if outcome.why else ""
        print(f"{name}: {outcome.status}, {outcome.seconds:.1f} s{why}", file=sys.stderr, flush=True)
        with atomic_write(out / "report.md") as file:
            file.write(markdown(state, PARTS))

    options = {"flags": flags, "out": str(out), "compile_layers": compile_layers}
    run_parts(PARTS, state, work, options, max_seconds=max_seconds, on_outcome=on_outcome)
    print(markdown(state, PARTS))
    left = [part.name for part in state.left(PARTS)]
    print(json.dumps({"report": str(out / "report.md"), "left": left}))
    if any(state.outcomes[name].went_wrong for name in left if name in state.outcomes):
        sys.exit(1)


def _about(flags: ModelFlags, compile_layers: bool) -> dict[str, object]:
    """What is asked: which model, on which device."""
    import torch

    on_gpu = flags.is_on_gpu() and torch.cuda.is_available()
    return {
        "model": flags.model or ("vicuna-7b" if on_gpu else "tiny"),
        "weights": flags.weights or "default",
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "dtype": flags.dtype or "default",
        "seed": flags.seed,
        "compile_layers": compile_layers,
    }


if __name__ == "__main__":
    run_script(gpu)
