"""The loaded model and the one engine that is up, for the parts that share them."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sim.hardware.what_if import BLOCK_SIZE
from traces.errors import InputError

from ..calibration.calibration import default_capacity
from ..engines.engine import ENGINES, Engine
from ..engines.model import LoadedModel
from ..execution.run import make_engine
from ..options import TINY_TRACE

EAGER, GRAPHS = ENGINES
FILES = {EAGER: "eager", GRAPHS: "graphs"}
"""The file names of what is measured on an engine."""


@dataclass(frozen=True)
class Sizes:
    """How much is asked: batches, contexts and prompts of the grid, by engine, visits to each of its cells,
    from which trace requests are served, and how many: the largest of `counts` that there is time for.
    """

    rows: tuple[int, ...]
    contexts: dict[str, tuple[int, ...]]
    eager_rows: tuple[int, ...]
    prompts: tuple[int, ...]
    max_prefill_tokens: int
    visits: int
    trace: str
    counts: tuple[int, ...]
    kv_tokens: int | None = None

    @classmethod
    def of(cls, device: torch.device) -> Sizes:
        """A GPU's, or small ones that a processor answers in seconds."""
        if device.type == "cuda":
            return cls(
                rows=(1, 2, 4, 8, 16, 32, 64, 128, 256),
                contexts={GRAPHS: (64, 128, 256, 512, 1024, 2048), EAGER: (64, 512, 2048)},
                eager_rows=(1, 4, 16, 64, 256),
                prompts=(32, 128, 512, 1024),
                max_prefill_tokens=8192,
                visits=5,
                trace="alpaca-vicuna",
                counts=(512, 256, 128, 64, 32, 16),
            )
        return cls(
            rows=(1, 4, 16),
            contexts={GRAPHS: (16, 96), EAGER: (16, 96)},
            eager_rows=(1, 4, 16),
            prompts=(8, 32, 64),
            max_prefill_tokens=256,
            visits=1,
            trace=TINY_TRACE,
            counts=(32, 16),
            kv_tokens=4096,
        )


@dataclass
class Bench:
    """What a part gets: the model, `out` for its files, and an engine at a time."""

    loaded: LoadedModel
    out: Path
    sizes: Sizes
    seed: int = 0
    compile_layers: bool = False
    _engines: dict[str, Engine] = field(default_factory=dict)

    def engine(self, name: str) -> Engine:
        """The engine of that name, with as much KV cache as there is room for; the other one is freed."""
        if name not in self._engines:
            self.release()
            tokens = self.sizes.kv_tokens or default_capacity(self.loaded)
            self._engines[name] = make_engine(
                name, self.loaded, tokens - tokens % BLOCK_SIZE, compile_layers=self.compile_layers
            )
        return self._engines[name]

    def release(self) -> None:
        """Free the engine that is up."""
        self._engines.clear()
        for layer in self.loaded.model.model.layers:
            for which in ("arena_keys", "arena_values"):
                if hasattr(layer.self_attn, which):
                    delattr(layer.self_attn, which)
        gc.collect()
        if self.loaded.device.type == "cuda":
            torch.cuda.empty_cache()

    def steps(self, engine: str) -> Path:
        """The file of the steps that were timed on it."""
        return self.out / f"{FILES[engine]}.steps.csv"

    def profile(self, engine: str) -> Path:
        """The file of the profile fitted to them; InputError where there is none yet."""
        path = self.out / f"{FILES[engine]}.json"
        if not path.exists():
            raise InputError(f"{path}: is not there yet; the grid of {engine} comes first")
        return path
