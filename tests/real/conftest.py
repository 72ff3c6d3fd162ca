"""A tiny model on the processor, an offline trace of short answers, and what `generate` says of it alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

SHORT = (
    "lognormal:prompt_median=8,prompt_sigma=0.6,max_prompt_tokens=24,"
    "output_median=8,output_sigma=0.7,max_output_tokens=28"
)


@pytest.fixture(scope="session")
def loaded() -> Iterator[Any]:
    torch = pytest.importorskip("torch", reason="the real extra is not installed")
    pytest.importorskip("transformers", reason="the real extra is not installed")
    from real.engines import model

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield model.load("tiny")
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_engine(loaded: Any) -> Callable[..., Any]:
    """(name, capacity_tokens) -> engine on the tiny model; only the newest may be used."""
    from real.execution.run import make_engine

    return lambda name, capacity_tokens=4096: make_engine(name, loaded, capacity_tokens)


@pytest.fixture(scope="session")
def alone(loaded: Any) -> Callable[[Sequence[int], int], list[int]]:
    """(prompt, n) -> n tokens from `generate`, this prompt alone in its batch."""
    import torch
    from transformers import GenerationConfig

    known: dict[tuple[int, ...], list[int]] = {}

    def generate(prompt: Sequence[int], num_tokens: int) -> list[int]:
        key = tuple(prompt)
        if len(known.get(key, [])) < num_tokens:
            loaded.model.set_attn_implementation("sdpa")
            ids = torch.tensor([list(prompt)])
            config = GenerationConfig(max_new_tokens=num_tokens, do_sample=False, pad_token_id=0)
            out = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
            known[key] = out[0, len(prompt) :].tolist()
        return known[key][:num_tokens]

    return generate


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [rng.integers(3, 512, int(n)).tolist() for n in rng.integers(3, 40, 9)]


@pytest.fixture(scope="session")
def make_scenario() -> Callable[..., Any]:
    """(num_prompts, **settings) -> a scenario of short answers, by default on 256 KV blocks."""
    from sim.scenario.scenario import scenario

    return lambda num_prompts=200, **settings: scenario(
        SHORT, num_prompts=num_prompts, **{"kv_blocks": 256, **settings}
    )


@pytest.fixture(scope="session")
def serve(loaded: Any, make_engine: Callable[..., Any]) -> Callable[..., Any]:
    """(scenario, policy, engine name, **settings) -> (what was measured, the prompts)."""
    from real.execution.run import run
    from real.lengths.prompts import random_prompts

    def run_it(scenario: Any, policy: str, engine: str = "transformers-eager", **settings: Any) -> Any:
        rng = np.random.default_rng(1)
        given = random_prompts(scenario.trace.prompt_tokens.tolist(), loaded.ordinary_tokens, rng)
        made = make_engine(engine, scenario.limits.kv_tokens)
        return run(scenario, policy, made, loaded, given, **settings), given

    return run_it


class ChatTokenizer:
    """Bytes in a chat template of its own, with special ids unlike LLaMA's; made up, nothing to download."""

    chat_template = "made up"
    name_or_path = "chat"
    bos_token, bos_token_id, eos_token_id, pad_token_id = "", None, 300, 301
    all_special_ids = (300, 301, 302)
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        from real.lengths.byte_tokenizer import ByteTokenizer

        self.bytes = ByteTokenizer()

    def apply_chat_template(self, turns: Any, tokenize: bool, add_generation_prompt: bool) -> str:
        return f"<user>{turns[0]['content']}<end><assistant>"

    def __call__(self, text: Any, add_special_tokens: bool = True) -> Any:
        return self.bytes(text, add_special_tokens=False)

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        return self.bytes.decode([id for id in ids if id not in self.all_special_ids])


@pytest.fixture(scope="session")
def chatty(loaded: Any) -> Any:
    """The tiny model as one that was tuned on conversations, whose answers end often."""
    ends = frozenset({*range(0, 512, 9), ChatTokenizer.eos_token_id})
    return replace(loaded, weights="pretrained", tokenizer=ChatTokenizer(), eos_tokens=ends)


@pytest.fixture
def texts(tmp_path: Any) -> Any:
    """A file of six instructions with answers, and the instructions."""
    words = ("Sing.", "Count to ten.", "Why?", "Tell a tale of rivers.", "Name a colour.", "Rhyme.")
    rows = [{"instruction": text, "output": text * (k + 1)} for k, text in enumerate(words)]
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(rows))
    return path, words
