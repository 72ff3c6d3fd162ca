"""How long does the model expect its answers to be, how far off is it, and what does asking cost?

    python real/perception.py                                       (tiny model: a demonstration only)
    python real/perception.py --model lmsys/vicuna-7b-v1.5 --trace prompts.csv --adapter out/adapter

Asks in one of two ways (arXiv 2305.13144): `po`, the number alone, in batches of 128 with 8 tokens each, or
`pia`, the number and then the answer in one generation. Where an answer states no length, a fallback is used.
The last line of stdout is JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, the folder on the path is this one, whose modules must not hide others of their names.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from real.options import TINY_TEXTS, EngineFlags, TextFlags
from sim.cli import run_script
from traces.errors import InputError

if TYPE_CHECKING:
    from real.engines.engine import Engine
    from real.lengths.asker import Asker
    from real.lengths.read_length import ReadLengths
    from sim.scenario.scenario import Scenario


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class OutputFlags:
    """Where the predictions are written, each if a file is named."""

    save_result: Path | None = None
    """Write all figures and every answer to this JSON file."""
    save_pairs: Path | None = None
    """Write predicted and actual lengths to this CSV file, for the predictor empirical:file=..."""
    save_trace: Path | None = None
    """Write the trace with the predictions as a column (CSV, JSONL or Parquet), for the predictor trace."""
    figure: Path | None = None
    """Draw predicted against actual into this file (PNG or SVG)."""


def perceive(
    texts: TextFlags = TextFlags(),  # noqa: B008  (frozen dataclasses of defaults)
    machine: EngineFlags = EngineFlags(),  # noqa: B008
    outputs: OutputFlags = OutputFlags(),
    *,
    way: Literal["po", "pia"] = "po",
    adapter: Path | None = None,
    fallback: str = "median",
    answer_tokens: int = 8,
    batch_size: int | None = None,
    lengths: Literal["trace", "model"] = "trace",
) -> None:
    """Ask the model how long its answers will be, and compare its statements with the trace.

    Without a trace it is asked about 1,024 requests on CUDA, about 256 on the processor.

    Parameters
    ----------
    way
        po: the number alone. pia: the number, then the answer, in one generation.
    adapter
        A LoRA adapter (real/tune.py) to ask with.
    fallback
        Used where no length is stated: median (of the stated ones; of past answers where fewer than 10 or
        than half are), max, or a number of tokens.
    answer_tokens
        Tokens that the model has to state a length in. A model that was not taught to state a number alone
        may need more.
    batch_size
        Most requests in a batch, as far as memory allows; default: 128 (po), 16 (pia).
    lengths
        What the statements are held against: the trace's lengths (trace), or those of the model's own
        answers, found by a first run (model); with pia, answers also stop there.
    """
    import torch

    from real.lengths.asker import Asker, ModelPredictor
    from real.lengths.own_lengths import with_own_lengths

    machine.use_threads()
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size: {batch_size} must be at least 1")
    machine.check(adapter)
    try:
        options = ModelPredictor(way, adapter is not None, fallback, answer_tokens)
    except ValueError as error:
        raise InputError(str(error)) from None
    loaded = machine.load()
    asker = Asker(loaded, adapter, machine.seed)
    for warning in asker.warnings():
        say(warning)
    scenario, prompts = read_texts(asker, texts, 1024 if machine.is_on_gpu() else 256)
    engine = machine.start(loaded)
    try:
        if lengths == "model":
            scenario = with_own_lengths(scenario, engine, prompts, loaded.eos_tokens, say)
        report, readings, answers = _ask(asker, options, engine, scenario, prompts, batch_size, lengths)
    except torch.OutOfMemoryError as error:
        raise InputError(f"batch_size: out of device memory ({str(error).splitlines()[0]})") from None
    about = {
        "ran": f"{machine.engine} on {loaded.label}",
        "trace": scenario.trace.name,
        "seed": machine.seed,
        "held_against": "the model's own lengths" if lengths == "model" else "the trace's lengths",
        **report,
    }
    _show(about)
    _save(about, readings, answers, scenario, outputs)
    print(json.dumps(about, allow_nan=False))


def _ask(
    asker: Asker,
    options: Any,
    engine: Engine,
    scenario: Scenario,
    prompts: Any,
    batch_size: int | None,
    lengths: Literal["trace", "model"],
) -> tuple[dict[str, Any], ReadLengths, list[str]]:
    """The report, the predictions, and the text of each answer."""
    from real.lengths import in_advance
    from real.lengths.asking import ASK_AT_ONCE
    from real.lengths.read_length import Fallback, read_lengths

    asking = asker.asking(options)
    asking.collect(engine, prompts[:2])  # the first passes of a process are slow
    extra: dict[str, Any] = {}
    if options.way == "po":
        statements = asking.collect(engine, prompts, batch_size or ASK_AT_ONCE, say=say)
        added = statements.seconds
    else:
        free = lengths == "model"
        most = [scenario.max_new_tokens] * len(prompts) if free else scenario.trace.output_tokens.tolist()
        advance = in_advance.generate(
            asking, engine, prompts, most, may_end=free, batch_size=batch_size or in_advance.BATCH, say=say
        )
        statements, added = advance.statements, advance.added_seconds
        if free:
            extra = against_own(statements.stated, advance.answer_lengths)
    history = asker.history(scenario.trace)
    fallback = Fallback.of(options.fallback)
    readings = read_lengths(statements.stated, scenario.max_new_tokens, fallback, history)
    about = asker.report(options, statements, readings, scenario.trace, history)
    about["slowdown"] = asking.slowdown(engine, prompts)
    about["added_seconds_per_request"] = added / len(prompts)
    return {**about, **extra}, readings, [asking.text(row) for row in statements.rows]


def against_own(stated: list[int | None], answered: list[int | None]) -> dict[str, Any]:
    """Errors of the stated lengths against the answers that followed them in the same generation."""
    import numpy as np

    from sim.perception.accuracy import error_report

    pairs = [(a, b) for a, b in zip(stated, answered, strict=True) if a is not None and b is not None]
    if not pairs:
        return {"own_answers": 0}
    errors = error_report(*(np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True)))
    return {
        "own_answers": errors.num_requests,
        "own_error": errors.error,
        "own_acc_50": errors.acc_50,
        "own_acc_100": errors.acc_100,
    }


def read_texts(asker: Asker, texts: TextFlags, default_count: int) -> tuple[Scenario, Any]:
    """The requests as the model gets them, and their prompts as token ids.

    `default_count` requests are taken from the default trace.
    """
    from dataclasses import replace

    from real.options import texts_of
    from sim.scenario.scenario import scenario as make_scenario

    default = "alpaca-vicuna" if asker.loaded.device.type == "cuda" else TINY_TEXTS
    scenario = make_scenario(
        texts_of(texts.trace, texts.answers, default, asker.loaded),
        seed=asker.seed,
        num_prompts=default_count
        if texts.num_prompts is None and not (texts.trace or texts.answers)
        else texts.num_prompts,
        sample_seed=texts.sample_seed,
        max_new_tokens=texts.max_new_tokens,
    )
    if scenario.trace.prompt is None and not asker.is_nonsense:
        say(f"{scenario.trace.name} has no texts: using made-up ones, whose wording gives the size away")
    trace, prompts = asker.prompts_of(scenario.trace)
    return replace(scenario, trace=trace), prompts


def _show(about: dict[str, Any]) -> None:
    """Print one fact per line."""
    for key, value in about.items():
        print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")


def _save(
    about: dict[str, Any],
    readings: ReadLengths,
    answers: list[str],
    scenario: Scenario,
    outputs: OutputFlags,
) -> None:
    from dataclasses import replace

    from traces.files import atomic_write
    from traces.writers import write

    predicted, actual = readings.predicted.tolist(), scenario.trace.perceived_truth.tolist()
    if outputs.save_result is not None:
        rows = [
            {"predicted": p, "actual": a, "fell_back": f, "said": s}
            for p, a, f, s in zip(predicted, actual, readings.fell_back.tolist(), answers, strict=True)
        ]
        with atomic_write(outputs.save_result) as file:
            file.write(json.dumps({**about, "answers": rows}, indent=2, allow_nan=False) + "\n")
    if outputs.save_pairs is not None:
        with atomic_write(outputs.save_pairs) as file:
            file.write("predicted,actual\n")
            file.writelines(f"{p},{a}\n" for p, a in zip(predicted, actual, strict=True))
    if outputs.save_trace is not None:
        write(replace(scenario.trace, predicted_tokens=readings.predicted), outputs.save_trace)
        cost = f"question_tokens={about['question_tokens']},answer_tokens={about['answer_tokens']}"
        cost += f",slowdown={about['slowdown']:.3f}"
        say(f"seqsched compare --trace {outputs.save_trace} --predictor trace:charge=on,{cost}")
    if outputs.figure is not None:
        from plots import perception as figures
        from plots.style import save

        title = f"{about['ran']}, {about['way']}: mean error {about['error']:.1f} tokens"
        save(figures.report(readings.predicted, scenario.trace.perceived_truth, title), outputs.figure)


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(f"perception: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_script(perceive)
