from __future__ import annotations

import warnings

import pytest

from sim.work import SchedulingError

pytest.importorskip("torch", reason="the real extra is not installed")

from real.engines.arena import ArenaEngine
from real.engines.engine import KvOvercommitted, Part, left_padded

BOTH = ("transformers-eager", "cuda-graphs")


def batch(engine, prompts, num_tokens):
    steps = [engine.prefill(prompts, num_tokens)]
    while len(steps) < num_tokens:
        steps.append(engine.decode())
    engine.release()
    return [list(row) for row in zip(*steps, strict=True)]


@pytest.mark.parametrize("name", BOTH)
def test_a_padded_batch_says_what_each_row_says_alone(name, make_engine, prompts, alone):
    expected = [alone(p, 24) for p in prompts]
    engine = make_engine(name)
    assert batch(engine, prompts, 24) == expected
    assert batch(engine, prompts[:1], 24) == expected[:1]


@pytest.mark.parametrize("name", BOTH)
def test_a_batch_beyond_the_capacity_is_refused_and_leaves_the_engine_usable(name, make_engine, prompts):
    need = 9 * (max(map(len, prompts)) + 10)
    engine = make_engine(name, need)
    with pytest.raises(
        KvOvercommitted, match=f"9 rows reserves {need + 9} KV tokens, the capacity is {need}"
    ):
        engine.prefill(prompts, 11)
    assert len(batch(engine, prompts, 10)) == 9


@pytest.mark.parametrize("name", BOTH)
def test_a_batch_of_nothing_is_refused(name, make_engine, prompts):
    engine = make_engine(name)
    for rows, limit in (([], 5), (prompts, 0)):
        with pytest.raises(SchedulingError, match="runs nothing"):
            engine.prefill(rows, limit)


@pytest.mark.parametrize("name", BOTH)
def test_a_primed_batch_decodes(name, make_engine):
    engine = make_engine(name)
    engine.prime([20, 7, 13])
    if name == "cuda-graphs":
        assert engine.lengths[[engine.slot_of[key] for key in engine.batch]].tolist() == [20, 7, 13]
    assert len(engine.decode()) == 3
    assert all(0 <= token < 512 for token in engine.decode())
    engine.release()


def test_chunks_and_decoding_mix(make_engine, prompts, alone):
    expected = [alone(p, 12) for p in prompts[:3]]
    engine = make_engine("cuda-graphs")
    said = {key: [] for key in range(3)}

    def iterate(*parts):
        for part, token in zip([p for p in parts if p.yields], engine.iterate(parts), strict=True):
            said[part.key].append(token)

    for key in range(3):
        engine.admit(key, len(prompts[key]) + 12)
    half = len(prompts[1]) // 2
    iterate(Part(0, prompts[0], True), Part(1, prompts[1][:half], False))
    iterate(Part(0, said[0][-1:], True), Part(1, prompts[1][half:], True), Part(2, prompts[2][:1], False))
    iterate(Part(0, said[0][-1:], True), Part(1, said[1][-1:], True), Part(2, prompts[2][1:], True))
    while len(said[0]) < 12:
        for key, token in enumerate(engine.decode_all([0, 1, 2])):
            said[key].append(token)
    assert said == {k: expected[k][: len(said[k])] for k in said}


def test_a_padded_batch_leaves_running_sequences_alone(make_engine, prompts, alone):
    expected = [alone(p, 8) for p in prompts]
    engine = make_engine("cuda-graphs", len(prompts[0]) + 8 + 8 * (max(map(len, prompts[1:])) + 8))
    engine.admit(0, len(prompts[0]) + 8)
    said = engine.iterate([Part(0, prompts[0], True)])
    said += engine.decode_all([0])
    assert batch(engine, prompts[1:], 8) == expected[1:]
    while len(said) < 8:
        said += engine.decode_all([0])
    assert said == expected[0]


def test_sequences_that_fill_the_arena_move_and_go_on(make_engine, prompts, alone):
    used = prompts[:4]
    expected = [alone(p, 16) for p in used]
    engine = make_engine("cuda-graphs", sum(map(len, used)) + 4 * 15)
    said = []
    for key, prompt in enumerate(used):
        engine.admit(key, 400)  # room for one such sequence at most
        said.append(engine.iterate([Part(key, prompt, True)]))
    for _ in range(15):
        for key, token in enumerate(engine.decode_all(range(4))):
            said[key].append(token)
    assert said == expected
    with pytest.raises(KvOvercommitted, match="4 sequences need"):
        engine.decode_all(range(4))
    engine.evict(1)
    engine.decode_all([0, 2, 3])


def test_more_rows_than_slots_are_refused(make_engine):
    engine = make_engine("cuda-graphs", 3 * ArenaEngine.max_rows)
    with pytest.raises(SchedulingError, match="more than"):
        engine.prefill([[5]] * (ArenaEngine.max_rows + 1), 1)
    assert engine.prefill([[5]], 1)


class EagerPool:
    """Stands in for CUDA graphs: pads, warms up and copies as they do, and runs the function at once."""

    def __init__(self):
        self.keys = []

    def run(self, key, given, harmless, device, function):
        assert given.shape == harmless.shape
        if key not in self.keys:
            for _ in range(3):
                function(harmless.clone())
            self.keys.append(key)
        static = given.clone()
        function(static)
        return static


def test_what_pads_a_bucket_changes_no_token(make_engine, prompts, alone):
    expected = [alone(p, 12) for p in prompts]
    engine = make_engine("cuda-graphs")
    engine.graphs = EagerPool()
    assert batch(engine, prompts[:5], 12) == expected[:5]
    assert batch(engine, prompts[:1], 12) == expected[:1]
    said = {}
    for key in (5, 6, 7):
        engine.admit(key, len(prompts[key]) + 12)
        said[key] = engine.iterate([Part(key, prompts[key], True)])
    for _ in range(11):
        for key, token in zip(said, engine.decode_all(list(said)), strict=True):
            said[key].append(token)
    assert said == {key: expected[key] for key in said}
    assert {(8,), (1,), (4,)} <= set(engine.graphs.keys)
    assert all(len(key) == 1 or key[0] % 64 == 0 for key in engine.graphs.keys)


@pytest.mark.parametrize("name", BOTH)
def test_half_precision_runs(name, prompts):
    from real.engines import model
    from real.execution import run

    engine = run.make_engine(name, model.load("tiny", dtype="bfloat16"), 2048)
    assert len(batch(engine, prompts, 4)) == 9


def test_one_compiled_layer_serves_all_and_every_size(prompts, alone):
    """Without code generation: traced as a whole, the layers share their graphs, and few kinds are needed."""
    import torch
    from torch._dynamo.utils import counters

    from real.engines import model
    from real.engines.graphs import compile_decoder_layers

    expected = [alone(p, 2) for p in prompts]
    torch._dynamo.reset()
    counters.clear()
    own = model.load("tiny")
    engine = ArenaEngine(own, 4096)
    compile_decoder_layers(own.model, backend="eager")
    for graphs, rows in ((None, 9), (None, 5), (EagerPool(), 3)):
        engine.graphs = graphs
        assert batch(engine, prompts[:rows], 2) == expected[:rows]
    assert 0 < counters["stats"]["unique_graphs"] <= 5  # not one for each of the four layers and each size
    torch._dynamo.reset()


def test_what_the_kernel_does_not_take_runs_without_graphs_and_says_so(make_engine):
    import torch

    from real.engines.attention import has_kernel

    engine = make_engine("cuda-graphs", 64)
    assert engine.graphs is None
    assert (engine.ragged_prefill, engine.ragged_decode) == (True, False)
    assert not has_kernel(torch.zeros(1, dtype=torch.bfloat16))


def test_rows_are_padded_on_the_left():
    import torch

    ids, mask = left_padded([[5, 6, 7], [8]], torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("name", ["transformers-eager", "cuda-graphs"])
def test_no_forward_pass_uses_what_transformers_deprecates(name, make_engine, prompts):
    engine = make_engine(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        engine.prefill(prompts, 4)
        engine.decode()
        engine.release()
        engine.prime([8, 8])
        engine.decode()
        engine.release()
