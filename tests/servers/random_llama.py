"""A LLaMA of SmolLM2-135M's shape with random weights, and a tokenizer of the words that a client draws."""

from __future__ import annotations

from pathlib import Path

from real.observing.wording import WORDS

SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
}
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def write(folder: Path) -> None:
    """The model as an ordinary folder of transformers."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *dict.fromkeys(WORDS)))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(vocabulary), pad_token_id=0, bos_token_id=1, eos_token_id=2, **SHAPE)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
