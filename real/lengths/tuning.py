"""Trains a LoRA adapter to predict the length of answers: prompt and question -> number.

The paper's instruction tuning (arXiv 2305.13144) with today's peft and Trainer. Knows nothing of traces.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from traces.errors import InputError

from ..engines.model import LoadedModel
from .adapter import identity, write_note
from .asking import Asking

if TYPE_CHECKING:
    from transformers import TrainingArguments

IGNORED = -100
"""Label of a token that the loss leaves out, such as the prompt's."""

LINEAR_LAYERS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


@dataclass(frozen=True)
class TuneOptions:
    """How the adapter is trained; the defaults are the paper's."""

    rank: int = 8
    """Rank of the low-rank matrices."""
    alpha: int = 16
    """Their scale is alpha / rank."""
    dropout: float = 0.05
    """Dropout before them."""
    targets: str = "q_proj,v_proj"
    """Names of the linear layers that get them, separated by commas."""
    learning_rate: float = 2e-5
    """At its peak, after a warm-up of 3 % of the steps and before a cosine decay."""
    epochs: float = 3.0
    """Passes over the training prompts."""
    batch_size: int = 32
    """Prompts in one step of the optimiser."""
    micro_batch: int = 2
    """Prompts in one forward pass."""

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "batch_size", "micro_batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "epochs"):
            if not 0 < getattr(self, name) < 1e6:
                raise InputError(f"{name}: {getattr(self, name)} must be above 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout: {self.dropout} must be at least 0 and below 1")
        if self.batch_size % self.micro_batch:
            raise InputError(
                f"batch_size: {self.batch_size} is not a multiple of micro_batch, {self.micro_batch}"
            )


FOR_TINY = TuneOptions(16, 32, 0.0, LINEAR_LAYERS, 1e-2, 3.0, 16, 16)
"""On random weights the adapter must be larger and learn faster."""


class TrainingResult(NamedTuple):
    """The loss of every step, the number of parameters that were trained, and the time."""

    losses: list[float]
    num_trained: int
    seconds: float


def example(asking: Asking, prompt: Sequence[int], number: int, end: int) -> dict[str, list[int]]:
    """A training example: the prompt with the question, and the number as its answer, with an end token."""
    question = asking.with_question(prompt)
    answer = [*asking.tokenizer(str(number), add_special_tokens=False)["input_ids"], end]
    return {"input_ids": [*question, *answer], "labels": [IGNORED] * len(question) + answer}


def train(
    loaded: LoadedModel,
    examples: Sequence[dict[str, list[int]]],
    options: TuneOptions,
    out: Path,
    *,
    seed: int = 0,
    about: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> TrainingResult:
    """Train an adapter and save it to the folder `out`; the model itself is unchanged afterwards.

    Raises InputError where the model lacks a layer that `options` names, or nothing can be written.
    """
    from transformers import PrinterCallback, Trainer

    with torch.random.fork_rng(devices=[loaded.device] if loaded.device.type == "cuda" else []):
        torch.manual_seed(seed)
        tuned = _with_new_adapter(loaded, options)
        with tempfile.TemporaryDirectory() as scratch:
            trainer = Trainer(
                model=tuned,
                args=_arguments(options, scratch, len(examples), loaded.device, seed),
                train_dataset=list(examples),
                data_collator=padded,
            )
            trainer.remove_callback(PrinterCallback)  # it would write to stdout
            trainer.add_callback(_loss_reporter(say))
            metrics = trainer.train().metrics
        losses = [float(line["loss"]) for line in trainer.state.log_history if "loss" in line]
    try:
        tuned.save_pretrained(str(out))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    write_note(out, {"base": identity(loaded), "options": asdict(options), "seed": seed, **(about or {})})
    num_trained = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    tuned.unload()
    loaded.model.eval()
    return TrainingResult(losses, num_trained, float(metrics["train_runtime"]))


def _with_new_adapter(loaded: LoadedModel, options: TuneOptions) -> Any:
    """The model with an untrained adapter; InputError where it lacks a layer that `options` names."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=[name.strip() for name in options.targets.split(",") if name.strip()],
        bias="none",
    )
    try:
        return get_peft_model(loaded.model, lora)
    except ValueError as error:
        raise InputError(f"targets: {options.targets} ({' '.join(str(error).split())[:160]})") from None


def _arguments(
    options: TuneOptions, folder: str, num_examples: int, device: torch.device, seed: int
) -> TrainingArguments:
    """The options as arguments of transformers; nothing is saved or reported during training."""
    from transformers import TrainingArguments

    steps = math.ceil(num_examples / options.batch_size) * options.epochs
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.batch_size // options.micro_batch,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(0.03 * steps),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type != "cpu",
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=seed,
    )


def padded(examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch of tensors, padded on the right."""
    longest = max(len(one["input_ids"]) for one in examples)

    def column(key: str, fill: int) -> torch.Tensor:
        return torch.tensor([[*one[key], *[fill] * (longest - len(one[key]))] for one in examples])

    ids = column("input_ids", 0)
    real = torch.tensor([len(one["input_ids"]) for one in examples])
    mask = (torch.arange(longest)[None] < real[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": column("labels", IGNORED)}


def _loss_reporter(say: Callable[[str], None]) -> Any:
    """A callback that reports the loss about ten times during training."""
    from transformers import TrainerCallback

    class LossReporter(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            every = max(1, state.max_steps // 10)
            if logs and "loss" in logs and state.global_step % every == 0:
                say(f"step {state.global_step} of {state.max_steps}: loss {float(logs['loss']):.3f}")

    return LossReporter()
