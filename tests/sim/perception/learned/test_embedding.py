"""Embeddings are means of hidden states, whatever else is in the batch, and belong to one model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.learning.answers import read_answers
from sim.learning.training import train
from sim.perception.learned import LearnedPredictor
from sim.perception.learned.embedding import embedder, fingerprint
from tests.sim.learning.conftest import TOPICS, rows, write
from traces.errors import InputError

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
torch = pytest.importorskip("torch")


def model_in(folder: Path, seed: int) -> Path:
    """A tiny random model that knows the words of the made-up prompts."""
    words = {"[UNK]": 0, "[PAD]": 1, **{word: k + 2 for k, word in enumerate(TOPICS)}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_in(tmp_path_factory.mktemp("model"), 0)


def test_neighbours_in_a_batch_change_nothing(folder: Path) -> None:
    embed = embedder(str(folder))
    together = embed(["poem", "story and a poem about a story", "", "list " * 100])
    assert together.shape == (4, 8)
    assert np.allclose(np.linalg.norm(together, axis=1), [1, 1, 0, 1], atol=1e-5)
    for text, row in zip(("poem", "story and a poem about a story"), together, strict=False):
        assert np.allclose(embed([text])[0], row, atol=1e-5)


def test_a_predictor_finds_its_model_again_and_takes_no_other(folder: Path, tmp_path: Path) -> None:
    answers = read_answers(write(tmp_path / "log.jsonl", rows(120)))
    predictor = train(answers, embeddings=folder).predictor
    predictor.save(tmp_path / "p")
    loaded = LearnedPredictor.load(tmp_path / "p")
    text = "story please now again about thing 77?"
    assert loaded.predict_text(text) == predictor.predict_text(text)
    assert np.allclose(loaded.predict_texts([text])[0], loaded.predict_text(text).quantiles, rtol=1e-4)
    sha256 = fingerprint(folder)
    with pytest.raises(InputError, match="was trained with another model"):
        embedder(str(model_in(tmp_path / "other", 1)), sha256, "p")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder of a model"):
        fingerprint(tmp_path)
