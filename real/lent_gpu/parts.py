"""The parts by name, in the order of what matters most, and the process that answers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from traces.errors import InputError

from .session import CAUTION, LOAD, Part

PARTS = (
    Part("arena attention", 40.0),
    Part("copy bandwidth and memory floor", 20.0),
    Part("decode, cuda-graphs", 90.0),
    Part("prefill, cuda-graphs", 60.0),
    Part("decode, transformers-eager", 75.0),
    Part("prefill, transformers-eager", 45.0),
    Part("host, cuda-graphs", 15.0),
    Part("host, transformers-eager", 20.0),
    Part("all at once, transformers-eager", 70.0),
    Part("all at once, cuda-graphs", 50.0),
    Part("poisson, cuda-graphs", 40.0),
    Part("the paper's ratio", 90.0),
)
"""On an H200 the session's nine minutes end in the last ones, with which a second call begins."""

Answer = Callable[[float], dict[str, Any]]


def answers(bench: Any) -> dict[str, Answer]:
    """What answers each part, given the seconds that it may take."""
    from . import grid, serving
    from .bench import EAGER, GRAPHS

    answer: dict[str, Answer] = {
        "arena attention": lambda _: arena_attention(bench),
        "copy bandwidth and memory floor": lambda _: {**grid.peak_rates(bench), "complete": True},
        "poisson, cuda-graphs": partial(serving.poisson, bench, GRAPHS),
        "the paper's ratio": partial(serving.paper_ratio, bench),
    }
    for engine in (GRAPHS, EAGER):
        for kind in ("decode", "prefill"):
            answer[f"{kind}, {engine}"] = partial(grid.time_grid, bench, engine, kind)
        answer[f"host, {engine}"] = partial(grid.host_gaps, bench, engine)
        answer[f"all at once, {engine}"] = partial(serving.offline, bench, engine)
    return answer


def arena_attention(bench: Any) -> dict[str, Any]:
    """Errors of the arena's attention, and whether they are those of rounding; raises ArithmeticError for
    larger ones, so that the part counts as failed.
    """
    from .correctness import TOLERANCE, attention_errors, equal_answers

    bench.release()
    bound = TOLERANCE[bench.loaded.dtype]
    errors = attention_errors(bench.loaded, bench.seed)
    alike = equal_answers(bench.loaded, bench.release, bench.seed)
    too_large = {case: error for case, error in errors.items() if not error <= bound}
    if too_large:
        raise ArithmeticError(f"errors of attention above {bound:g}: {too_large}")
    return {"largest_errors": errors, "bound": bound, "equal_to_eager": alike, "complete": True}


def work(link: Any, parts: Sequence[Part], options: Mapping[str, Any]) -> None:
    """Load the model and answer the parts, telling `link` how it goes; ends at the first failure.

    `options`: `flags` (`real.options.ModelFlags`), `out`, `compile_layers`.
    """
    link.send(("begin", LOAD))
    try:
        from .bench import Bench, Sizes

        flags = options["flags"]
        flags.use_threads()
        loaded = flags.load()
        sizes = Sizes.of(loaded.device)
        bench = Bench(loaded, Path(options["out"]), sizes, flags.seed, options["compile_layers"])
        answer = answers(bench)
    except InputError as error:
        link.send(("end", LOAD, "failed", {}, str(error)))
        return
    link.send(("end", LOAD, "done", {}, ""))
    for part in parts:
        link.send(("begin", part.name))
        try:
            result = answer[part.name](CAUTION * part.limit_s)
        except Exception as error:  # whatever it is, the next part must have its turn
            link.send(("end", part.name, "failed", {}, f"{type(error).__name__}: {error}"))
            return
        status = "done" if result.pop("complete") else "unfinished"
        link.send(("end", part.name, status, result, ""))
