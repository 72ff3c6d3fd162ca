"""Teaches the model to tell how long its answers will be, and says how much better it then is at it.

    python real/tune.py --out out/adapter                            (tiny model: the whole way, in a minute)
    python real/tune.py --out out/adapter --model lmsys/vicuna-7b-v1.5 --answers prompts.json \
        --temperatures 0 --temperatures 0.3 --temperatures 0.5 --temperatures 0.7

As the paper does (arXiv 2305.13144): the largest of several sampled lengths of each prompt, rounded up to 50,
is learnt as the answer to the question for it, by LoRA. Judged before and after on prompts that were held
out. The last line of stdout is JSON.
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
    from real.lengths.tuning import TuneOptions
    from sim.scenario.scenario import Scenario


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainingFlags:
    """How the adapter is trained; the paper's way by default, a coarser one for the tiny model."""

    rank: int | None = None
    """Rank of the low-rank matrices; default: the paper's 8, for the tiny model 16."""
    alpha: int | None = None
    """Their scale is alpha / rank; default: 16, for the tiny model 32."""
    dropout: float | None = None
    """Dropout before them; default: 0.05, for the tiny model 0."""
    targets: str | None = None
    """Linear layers that get them, with commas between; default: q_proj,v_proj, for the tiny model all."""
    learning_rate: float | None = None
    """At its peak; default: 2e-5, for the tiny model 1e-2."""
    epochs: float | None = None
    """Passes over the training prompts; default: 3."""
    batch_size: int | None = None
    """Prompts in a step of the optimiser; default: 32, for the tiny model 16."""
    micro_batch: int | None = None
    """Prompts in a forward pass; default: 2, for the tiny model 16."""

    def options(self, model: str) -> TuneOptions:
        """What is given here, and for this model the defaults of the rest."""
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
    """Train a LoRA adapter that answers the question for a length, and judge it on prompts held out.

    The lengths of the trace (the largest sample, where it has several) are learnt; without a trace those of
    10,000 requests on CUDA, of 768 on the processor.

    Parameters
    ----------
    out
        The folder to save the adapter in.
    temperatures
        Learn the lengths of the model's own answers at these temperatures (0: greedy) instead.
    held_out
        Share of the prompts that is not learnt from.
    save_result
        Write what was found, the loss of every step included, to this JSON file.
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
    made, prompts = read_texts(asker, texts, 10_000 if model.is_on_gpu() else 768)
    engine = make_engine("transformers-eager", loaded, default_capacity(loaded))
    if temperatures:
        made = _sampled(asker, made, prompts, temperatures)
    about = {
        "ran": f"LoRA on {loaded.label}",
        "trace": made.trace.name,
        "lengths": "sampled from the model" if temperatures else _where_from(made),
        "versions": {**versions(), "peft": peft.__version__},
        **_learn(asker, engine, made, prompts, options, out, held_out),
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
    """What asks the model before and after it has learnt; InputError where it cannot read texts."""
    from real.lengths.asker import Asker

    asker = Asker(loaded, seed=seed)
    if asker.tokenizer is None:
        raise InputError(
            f"model {loaded.shape.name}: with random weights it has no tokenizer to learn texts by"
        )
    asker.will_learn = True
    return asker


def _sampled(asker: Asker, made: Scenario, prompts: Any, temperatures: tuple[float, ...]) -> Scenario:
    """The scenario with the lengths of the model's own answers."""
    from real.lengths.training_data import sampled_lengths, with_samples

    say(f"sampling {len(temperatures)} answers to each of {len(prompts)} prompts")
    lengths = sampled_lengths(asker.loaded, prompts, temperatures, made.max_new_tokens, seed=asker.seed)
    return replace(made, trace=with_samples(made.trace, lengths, temperatures))


def _where_from(made: Scenario) -> str:
    samples = made.trace.sample_names
    return f"the largest of the trace's {', '.join(samples)}" if samples else "the trace's"


def _learn(
    asker: Asker,
    engine: Engine,
    made: Scenario,
    prompts: Any,
    options: TuneOptions,
    out: Path,
    held_out: float,
) -> dict[str, Any]:
    """Split, judge, train, load what was saved, judge again."""
    import numpy as np

    from real.lengths.asker import Asker, ModelPredictor
    from real.lengths.training_data import label
    from real.lengths.tuning import example, train
    from sim.perception.accuracy import error_report

    n = len(prompts)
    order = np.random.default_rng((asker.seed, 2)).permutation(n)
    kept = max(1, round(n * held_out))
    if kept >= n:
        raise InputError(f"num_prompts: of {n}, {kept} are held out; none is left to learn from")
    test, learn = order[:kept], order[kept:]
    asking, truth = asker.asking(ModelPredictor()), made.trace.perceived_truth
    end = min(asker.loaded.eos_tokens)
    examples = [example(asking, prompts[i], label(int(truth[i])), end) for i in learn.tolist()]
    before = _judge(asker, engine, made, prompts, test)
    say(f"before: {_sentence(before)}")
    about = {"trace": made.trace.name, "prompts": len(learn)}
    learnt = train(asker.loaded, examples, options, out, seed=asker.seed, about=about, say=say)
    after = _judge(Asker(asker.loaded, out, asker.seed), engine, made, prompts, test)
    say(f"after: {_sentence(after)}")
    usual = int(np.median([label(int(length)) for length in truth[learn]]))
    usual = min(usual, made.max_new_tokens)
    constant = error_report(np.full(kept, usual), truth[test])
    return {
        "adapter": str(out),
        "learnt_from": len(learn),
        "held_out": kept,
        "trained_parameters": learnt.num_trained,
        "steps": len(learnt.losses),
        "first_loss": learnt.losses[0],
        "last_loss": learnt.losses[-1],
        "losses": learnt.losses,
        "train_seconds": learnt.seconds,
        "before": before,
        "after": after,
        "always_the_median": {"tokens": usual, **constant._asdict()},
    }


def _judge(asker: Asker, engine: Engine, made: Scenario, prompts: Any, test: Any) -> dict[str, Any]:
    """Ask about the prompts held out, and report."""
    from real.lengths.asker import ModelPredictor
    from real.lengths.read_length import Fallback, read_lengths

    options = ModelPredictor(adapter=asker.adapter is not None)
    heard = asker.asking(options).collect(engine, [prompts[i] for i in test.tolist()])
    read = read_lengths(heard.stated, made.max_new_tokens, Fallback.of(options.fallback))
    return asker.report(options, heard, read, made.trace.select(test))


def _sentence(report: dict[str, Any]) -> str:
    return (
        f"error {report['error']:.1f} tokens, Acc-50 {report['acc_50']:.1%}, "
        f"Acc-100 {report['acc_100']:.1%}, {report['fell_back']} of {report['requests']} answers stated no "
        f"length (then: {report['fallback_tokens']})"
    )


def _show(about: dict[str, Any]) -> None:
    """For people: what was learnt, and the table of before and after."""
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
    print("\n| | error, tokens | Acc-50 | Acc-100 | stated no length |\n|---|---:|---:|---:|---:|")
    for name in ("before", "after", "always_the_median"):
        row = about[name]
        lost = f"{row['fell_back']} of {row['requests']}" if "fell_back" in row else "–"
        cells = f"{row['error']:.1f} | {row['acc_50']:.1%} | {row['acc_100']:.1%} | {lost}"
        print(f"| {name.replace('_', ' ')} | {cells} |")
    print()


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(f"tune: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_script(tune)
