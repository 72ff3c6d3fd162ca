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
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, the folder on the path is this one, whose modules must not hide others of their names.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from typing import TYPE_CHECKING, Any, Literal

from sim.cli import run_script
from traces.errors import InputError

if TYPE_CHECKING:
    from real.asker import Asker
    from real.engine import Engine
    from sim.simulation import Scenario


def tune(
    *,
    out: Path,
    trace: str | None = None,
    answers: Path | None = None,
    temperatures: tuple[float, ...] = (),
    num_prompts: int | None = None,
    sample_seed: int | None = None,
    max_new_tokens: int | None = None,
    held_out: float = 0.1,
    seed: int = 0,
    model: str | None = None,
    weights: Literal["random", "pretrained"] | None = None,
    dtype: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    rank: int | None = None,
    alpha: int | None = None,
    dropout: float | None = None,
    targets: str | None = None,
    learning_rate: float | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    micro_batch: int | None = None,
    save_result: Path | None = None,
) -> None:
    """Train a LoRA adapter that answers the question for a length, and judge it on prompts held out.

    Parameters
    ----------
    out
        The folder to save the adapter in.
    trace
        A file, a dataset or a generator, whose lengths (the largest sample, where it has several) are learnt;
        default: alpaca-vicuna on CUDA, short lengths on the processor. Where it has no texts, they are made
        up.
    answers
        In place of a trace, a file of texts with the columns instruction and output.
    temperatures
        Learn the lengths of the model's own answers at these temperatures (0: greedy) instead.
    num_prompts
        Use the first N requests; default: all of a file, 10,000 of a generator on CUDA, 768 on the processor.
    sample_seed
        Take them from the seeded permutation of the trace.
    max_new_tokens
        Cap on output tokens, and on what is predicted.
    held_out
        Share of the prompts that is not learnt from.
    seed
        Seed of everything random: prompts, random weights, order of training.
    model
        tiny, a path, or a name on the hub; default: vicuna-7b on CUDA, else tiny.
    weights
        random or pretrained; default: random for a known shape.
    dtype
        float32, float16 or bfloat16; default: bfloat16 on CUDA, else float32.
    device
        cuda or cpu; default: cuda where there is one.
    threads
        Processor threads of torch; default: 1 on the processor.
    rank
        Rank of the low-rank matrices; default: the paper's 8, for the tiny model 16.
    alpha
        Their scale is alpha / rank; default: 16, for the tiny model 32.
    dropout
        Dropout before them; default: 0.05, for the tiny model 0.
    targets
        Linear layers that get them, with commas between; default: q_proj,v_proj, for the tiny model all.
    learning_rate
        At its peak; default: 2e-5, for the tiny model 1e-2.
    epochs
        Passes over the training prompts; default: 3.
    batch_size
        Prompts in a step of the optimiser; default: 32, for the tiny model 16.
    micro_batch
        Prompts in a forward pass; default: 2, for the tiny model 16.
    save_result
        Write what was found, the loss of every step included, to this JSON file.
    """
    import peft

    from real import model as models
    from real.asker import Asker
    from real.calibration import default_capacity, versions
    from real.perception import TINY_TRACE, on_cuda, read_texts
    from real.run import make_engine
    from traces.files import atomic_write

    on_gpu = on_cuda(device, threads)
    if not 0 < held_out < 1:
        raise InputError(f"held_out: {held_out:g} must be between 0 and 1")
    if any(not 0 <= t <= 10 for t in temperatures):
        raise InputError(f"temperatures: {max(temperatures, key=abs):g} is not between 0 and 10")
    if not out.parent.is_dir():
        raise InputError(f"out {out}: there is no folder {out.parent}")
    loaded = models.load(model, weights=weights, dtype=dtype, device=device, seed=seed)
    options = _options(
        loaded.shape.name,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        targets=targets,
        learning_rate=learning_rate,
        epochs=epochs,
        batch_size=batch_size,
        micro_batch=micro_batch,
    )
    asker = Asker(loaded, seed=seed)
    if asker.tokenizer is None:
        raise InputError(
            f"model {loaded.shape.name}: with random weights it has no tokenizer to learn texts by"
        )
    asker.will_learn = True
    most = num_prompts or (None if trace or answers else 10_000 if on_gpu else 768)
    source = trace or ("alpaca-vicuna" if on_gpu else TINY_TRACE)
    made, prompts = read_texts(asker, source, answers, most, sample_seed, max_new_tokens, seed)
    engine = make_engine("transformers-eager", loaded, default_capacity(loaded) // 16 * 16)
    if temperatures:
        made = _sampled(asker, made, prompts, temperatures, seed)
    about = {
        "ran": f"LoRA on {loaded.label}",
        "trace": made.trace.name,
        "lengths": "sampled from the model" if temperatures else _where_from(made),
        "versions": {**versions(), "peft": peft.__version__},
        **_learn(asker, engine, made, prompts, options, out, held_out, seed),
    }
    losses = about.pop("losses")
    if save_result is not None:
        with atomic_write(save_result) as file:
            file.write(json.dumps({**about, "losses": losses}, indent=2, allow_nan=False) + "\n")
    _show(about)
    print(json.dumps(about, allow_nan=False))


def _options(name: str, **given: Any) -> Any:
    """The paper's settings, or those for the tiny model, with what the command line says otherwise."""
    from dataclasses import replace

    from real.model import TINY
    from real.tuning import FOR_TINY, TuneOptions

    base = FOR_TINY if name == TINY.name else TuneOptions()
    return replace(base, **{key: value for key, value in given.items() if value is not None})


def _sampled(
    asker: Asker, made: Scenario, prompts: Any, temperatures: tuple[float, ...], seed: int
) -> Scenario:
    """The scenario with the lengths of the model's own answers."""
    from dataclasses import replace

    from real.training_data import sampled_lengths, with_samples

    say(f"sampling {len(temperatures)} answers to each of {len(prompts)} prompts")
    lengths = sampled_lengths(asker.loaded, prompts, temperatures, made.max_new_tokens, seed=seed)
    return replace(made, trace=with_samples(made.trace, lengths, temperatures))


def _where_from(made: Scenario) -> str:
    samples = made.trace.sample_names
    return f"the largest of the trace's {', '.join(samples)}" if samples else "the trace's"


def _learn(
    asker: Asker,
    engine: Engine,
    made: Scenario,
    prompts: Any,
    options: Any,
    out: Path,
    held_out: float,
    seed: int,
) -> dict[str, Any]:
    """Split, judge, train, load what was saved, judge again."""
    import numpy as np

    from real.asker import Asker, ModelPredictor
    from real.training_data import label
    from real.tuning import example, train
    from sim.perception_error import error_report

    n = len(prompts)
    order = np.random.default_rng((seed, 2)).permutation(n)
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
    learnt = train(asker.loaded, examples, options, out, seed=seed, about=about, say=say)
    after = _judge(Asker(asker.loaded, out, seed), engine, made, prompts, test)
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
    from real.asker import ModelPredictor
    from real.length_answers import Fallback, read_lengths

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
