"""Teaches the model to predict how long its answers will be, and reports how much better it gets.

    python real/tune.py --out out/adapter                            (tiny model: all steps, in a minute)
    python real/tune.py --out out/adapter --model lmsys/vicuna-7b-v1.5 --answers prompts.json \
        --temperatures 0 --temperatures 0.3 --temperatures 0.5 --temperatures 0.7

As in the paper (arXiv 2305.13144), LoRA teaches the model to answer the question for a length with the
largest of several sampled lengths of the prompt, rounded up to 50. Errors are measured before and after, on
held-out prompts. The last line of stdout is JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, the folder on the path is this one, whose modules must not hide others of their names.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from real.options import ModelFlags, TextFlags
from sim.cli import run_script
from traces.errors import InputError

if TYPE_CHECKING:
    from real.engines.engine import Engine
    from real.engines.model import LoadedModel
    from real.lengths.asker import Asker
    from real.lengths.read_length import History
    from real.lengths.tuning import TuneOptions
    from sim.scenario.scenario import Scenario


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainingFlags:
    """How the adapter is trained: the paper's settings by default, coarser ones for the tiny model."""

    rank: int | None = None
    """Rank of the low-rank matrices; default: the paper's 8, for the tiny model 16."""
    alpha: int | None = None
    """Their scale is alpha / rank; default: 16, for the tiny model 32."""
    dropout: float | None = None
    """Dropout before them; default: 0.05, for the tiny model 0."""
    targets: str | None = None
    """Linear layers that get them, separated by commas; default: q_proj,v_proj, for the tiny model all."""
    learning_rate: float | None = None
    """At its peak; default: 2e-5, for the tiny model 1e-2."""
    epochs: float | None = None
    """Passes over the training prompts; default: 3."""
    batch_size: int | None = None
    """Prompts in a step of the optimiser; default: 32, for the tiny model 16."""
    micro_batch: int | None = None
    """Prompts in a forward pass; default: 2, for the tiny model 16."""

    def options(self, model: str) -> TuneOptions:
        """These settings, with the defaults for this model in place of those not given."""
        from real.engines.model import TINY
        from real.lengths.tuning import FOR_TINY, TuneOptions

        base = FOR_TINY if model == TINY.name else TuneOptions()
        return replace(base, **{key: value for key, value in asdict(self).items() if value is not None})


def tune(
    texts: TextFlags = TextFlags(),  # noqa: B008  (frozen dataclasses of defaults)
    model: ModelFlags = ModelFlags(),  # noqa: B008
    training: TrainingFlags = TrainingFlags(),
    *,
    out: Path,
    temperatures: tuple[float, ...] = (),
    held_out: float = 0.1,
    save_result: Path | None = None,
) -> None:
    """Train a LoRA adapter that answers the question for a length, and test it on held-out prompts.

    It learns the lengths of the trace (the largest sample where there are several), by default those of
    10,000 requests on CUDA and of 768 on the processor.

    Parameters
    ----------
    out
        The folder to save the adapter in.
    temperatures
        Learn the lengths of the model's own answers at these temperatures instead (0: greedy).
    held_out
        Share of the prompts kept out of the training, for the test.
    save_result
        Write the report, with the loss of every step, to this JSON file.
    """
    import peft

    from real.calibration.calibration import default_capacity, versions
    from real.execution.run import make_engine
    from real.perception import read_texts
    from traces.files import atomic_write

    model.use_threads()
    _check(out, temperatures, held_out)
    loaded = model.load()
    options = training.options(loaded.shape.name)
    asker = _learner(loaded, model.seed)
    scenario, prompts = read_texts(asker, texts, 10_000 if model.is_on_gpu() else 768)
    engine = make_engine("transformers-eager", loaded, default_capacity(loaded))
    if temperatures:
        scenario = _sampled(asker, scenario, prompts, temperatures)
    about = {
        "ran": f"LoRA on {loaded.label}",
        "trace": scenario.trace.name,
        "lengths": "sampled from the model" if temperatures else _where_from(scenario),
        "versions": {**versions(), "peft": peft.__version__},
        **_learn(asker, engine, scenario, prompts, options, out, held_out),
    }
    losses = about.pop("losses")
    if save_result is not None:
        with atomic_write(save_result) as file:
            file.write(json.dumps({**about, "losses": losses}, indent=2, allow_nan=False) + "\n")
    _show(about)
    print(json.dumps(about, allow_nan=False))


def _check(out: Path, temperatures: tuple[float, ...], held_out: float) -> None:
    """InputError for a value that cannot be used, before a model is loaded."""
    if not 0 < held_out < 1:
        raise InputError(f"held_out: {held_out:g} must be between 0 and 1")
    if any(not 0 <= t <= 10 for t in temperatures):
        raise InputError(f"temperatures: {max(temperatures, key=abs):g} is not between 0 and 10")
    if not out.parent.is_dir():
        raise InputError(f"out {out}: there is no folder {out.parent}")


def _learner(loaded: LoadedModel, seed: int) -> Asker:
    """The asker for a model about to be trained; InputError for a model without a tokenizer."""
    from real.lengths.asker import Asker

    asker = Asker(loaded, seed=seed)
    if asker.tokenizer is None:
        raise InputError(
            f"model {loaded.shape.name}: with random weights it has no tokenizer to learn texts by"
        )
    asker.will_learn = True
    return asker


def _sampled(asker: Asker, scenario: Scenario, prompts: Any, temperatures: tuple[float, ...]) -> Scenario:
    """The scenario with the lengths of the model's own answers."""
    from real.lengths.training_data import sampled_lengths, with_samples

    say(f"sampling {len(temperatures)} answers to each of {len(prompts)} prompts")
    lengths = sampled_lengths(
        asker.loaded, prompts, temperatures, scenario.max_new_tokens, seed=asker.seed, say=say
    )
    return replace(scenario, trace=with_samples(scenario.trace, lengths, temperatures))


def _where_from(scenario: Scenario) -> str:
    samples = scenario.trace.sample_names
    return f"the largest of the trace's {', '.join(samples)}" if samples else "the trace's"


def _learn(
    asker: Asker,
    engine: Engine,
    scenario: Scenario,
    prompts: Any,
    options: TuneOptions,
    out: Path,
    held_out: float,
) -> dict[str, Any]:
    """Split the prompts, test, train, load the saved adapter, test again; the report."""
    from statistics import median_high

    import numpy as np

    from real.lengths.asker import MEDIAN_LEARNT, Asker, ModelPredictor
    from real.lengths.read_length import History
    from real.lengths.training_data import label
    from real.lengths.tuning import example, train

    n = len(prompts)
    order = np.random.default_rng((asker.seed, 2)).permutation(n)
    num_held_out = max(1, round(n * held_out))
    if num_held_out >= n:
        raise InputError(f"num_prompts: of {n}, {num_held_out} are held out; none is left to learn from")
    test, learn = order[:num_held_out], order[num_held_out:]
    asking, truth = asker.asking(ModelPredictor()), scenario.trace.perceived_truth
    end = asker.loaded.end_token
    examples = [example(asking, prompts[i], label(int(truth[i])), end) for i in learn.tolist()]
    history = History(median_high(truth[learn].tolist()), "the lengths that it learns from")
    before = _judge(asker, engine, scenario, prompts, test, history)
    say(f"before: {_sentence(before)}")
    about = {"trace": scenario.trace.name, "prompts": len(learn), MEDIAN_LEARNT: history.tokens}
    training = train(asker.loaded, examples, options, out, seed=asker.seed, about=about, say=say)
    after = _judge(Asker(asker.loaded, out, asker.seed), engine, scenario, prompts, test, history)
    say(f"after: {_sentence(after)}")
    return {
        "adapter": str(out),
        "learnt_from": len(learn),
        "held_out": num_held_out,
        "trained_parameters": training.num_trained,
        "steps": len(training.losses),
        "first_loss": training.losses[0],
        "last_loss": training.losses[-1],
        "losses": training.losses,
        "train_seconds": training.seconds,
        "before": before,
        "after": after,
        "always_the_median": after["always_the_median"],
    }


def _judge(
    asker: Asker, engine: Engine, scenario: Scenario, prompts: Any, test: Any, history: History
) -> dict[str, Any]:
    """Ask for the lengths of the held-out prompts, and report the errors."""
    from real.lengths.asker import ModelPredictor
    from real.lengths.read_length import Fallback, read_lengths

    options = ModelPredictor(adapter=asker.adapter is not None)
    statements = asker.asking(options).collect(engine, [prompts[i] for i in test.tolist()], say=say)
    fallback = Fallback.of(options.fallback)
    readings = read_lengths(statements.stated, scenario.max_new_tokens, fallback, history)
    return asker.report(options, statements, readings, scenario.trace.select(test), history)


def _sentence(report: dict[str, Any]) -> str:
    return (
        f"error {report['error']:.1f} tokens, Acc-50 {report['acc_50']:.1%}, "
        f"Acc-100 {report['acc_100']:.1%}, Spearman {_rank(report)}, {report['fell_back']} of "
        f"{report['requests']} answers stated no length (taken as {report['fallback_tokens']})"
    )


def _rank(report: dict[str, Any]) -> str:
    """The rank correlation; of a constant there is none."""
    spearman = report.get("spearman")
    return "–" if spearman is None else f"{spearman:.2f}"


def _show(about: dict[str, Any]) -> None:
    """Print the settings, the loss, and a table of errors before and after."""
    for key in (
        "ran",
        "trace",
        "lengths",
        "adapter",
        "learnt_from",
        "held_out",
        "trained_parameters",
        "steps",
    ):
        print(f"{key}: {about[key]}")
    print(f"loss: {about['first_loss']:.3f} at first, {about['last_loss']:.3f} at last")
    print(
        "\n| | error, tokens | Acc-50 | Acc-100 | Spearman | stated no length |"
        "\n|---|---:|---:|---:|---:|---:|"
    )
    for name in ("before", "after", "always_the_median"):
        row = about[name]
        lost = f"{row['fell_back']} of {row['requests']}" if "fell_back" in row else "–"
        cells = f"{row['error']:.1f} | {row['acc_50']:.1%} | {row['acc_100']:.1%} | {_rank(row)} | {lost}"
        print(f"| {name.replace('_', ' ')} | {cells} |")
    print()


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(f"tune: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_script(tune)
