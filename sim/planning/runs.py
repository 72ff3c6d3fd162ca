"""Carries out the runs that a search asks for, on several cores, and keeps what they observed in a file.

A World is everything of a run but the fleet's size, the rate, the seed and the length. Knows nothing of
searches or verdicts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from traces.arrivals import at_rate, window
from traces.errors import InputError
from traces.scaling import scale_lengths
from traces.trace import Trace

from ..hardware.profile import Profile
from ..results.result import Result
from ..scenario.inputs import digest_of
from ..version import RESULTS_VERSION, __version__
from .search import Search
from .slo import RULE, Observation, Slo, observe
from .verdict import Run


@dataclass(frozen=True)
class World:
    """Workload, policy and machine; `run` supplies the rest.

    `source`: a Trace, or a generator's spec, which gives every seed requests of its own. `burstiness`: shape
    of the gamma distributed gaps between arrivals (1: Poisson); None: the trace's own gaps, scaled.
    `length_scale` multiplies output lengths, their cap, and what is predicted of them.
    """

    source: Trace | str
    policy: str
    profile: Profile
    predictor: str
    router: str = "least-requests"
    burstiness: float | None = None
    kv_blocks: int | None = None
    max_new_tokens: int | None = None
    length_scale: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def run(self, run: Run) -> Result:
        """One simulation."""
        from ..simulation import simulate

        trace = self._requests(run)
        fleet: dict[str, Any] = {"replicas": run.replicas, "router": self.router}
        return simulate(
            trace,
            policy=self.policy,
            predictor=self.predictor,
            profile=self.profile,
            seed=run.seed,
            request_rate=None if self.burstiness is None else run.rate,
            burstiness=1.0 if self.burstiness is None else self.burstiness,
            kv_blocks=self.kv_blocks,
            max_new_tokens=trace.max_new_tokens,
            **fleet,
            **self.settings,
        )

    def _requests(self, run: Run) -> Trace:
        if isinstance(self.source, str):
            from traces import load

            trace = load(
                self.source, seed=run.seed, num_prompts=run.num_requests, max_new_tokens=self.max_new_tokens
            )
        else:
            trace = window(self.source, run.seed, run.num_requests)
        if self.burstiness is None:
            trace = at_rate(trace, run.rate)
        return scale_lengths(trace, output_scale=self.length_scale)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells this world from another, in plain values; what they refer to by digests of content."""
        texts = {"policy": self.policy, "predictor": self.predictor}
        texts |= {key: value for key, value in self.settings.items() if isinstance(value, str)}
        return {
            "trace": self.source if isinstance(self.source, str) else _digest(self.source),
            "policy": self.policy,
            "profile": _digest_text(json.dumps(self.profile.to_json(), sort_keys=True)),
            "predictor": self.predictor,
            "router": self.router,
            "burstiness": self.burstiness,
            "kv_blocks": self.kv_blocks,
            "max_new_tokens": self.max_new_tokens,
            "length_scale": self.length_scale,
            "settings": {key: repr(value) for key, value in sorted(self.settings.items())},
            "inputs": {key: digest_of(key, text) for key, text in texts.items()},
        }


class Runs:
    """Carries out runs and remembers what they observed, in a JSON Lines file if one is given.

    A line is written when its run ends, so that whoever starts again with the same file redoes no run. A line
    cut off by the end of a process is dropped.
    """

    def __init__(
        self,
        slo: Slo,
        state: Path | None = None,
        jobs: int = -1,
        on_run: Callable[[int], None] | None = None,
    ) -> None:
        self.slo, self.state, self.jobs, self.on_run = slo, state, jobs, on_run
        self.known: dict[str, Observation] = {}
        self.num_simulated = 0
        if state is not None:
            self.known = _read(state)

    def __call__(self, wanted: Sequence[tuple[World, Run]]) -> list[Observation]:
        """What each of these runs observed, in order."""
        keys = [self.key(world, run) for world, run in wanted]
        missing = {
            key: (world, run) for key, (world, run) in zip(keys, wanted, strict=True) if key not in self.known
        }
        if missing:
            if self.state is None:
                self._simulate(missing, None)
            else:
                try:
                    with self.state.open("a", encoding="utf-8", newline="\n") as file:
                        self._simulate(missing, file)
                except OSError as error:
                    raise InputError(f"{self.state}: cannot be written ({error.strerror})") from None
        return [self.known[key] for key in keys]

    def _simulate(self, missing: Mapping[str, tuple[World, Run]], file: IO[str] | None) -> None:
        for key, observation in self._results(missing):
            self.known[key] = observation
            self.num_simulated += 1
            if file is not None:
                run = missing[key][1]
                line = {"key": key, "run": run._asdict(), "observation": observation.to_json()}
                file.write(json.dumps(line, allow_nan=False) + "\n")
                file.flush()
            if self.on_run is not None:
                self.on_run(self.num_simulated)

    def _results(self, missing: Mapping[str, tuple[World, Run]]) -> Iterable[tuple[str, Observation]]:
        # The longest first, so that no core is left alone with one of them at the end.
        order = sorted(missing, key=lambda key: -missing[key][1].num_requests)
        if self.jobs == 1 or len(missing) == 1:
            return (carry_out(self.slo, key, *missing[key]) for key in order)
        from joblib import Parallel, delayed

        parallel = Parallel(n_jobs=self.jobs, return_as="generator_unordered")
        return cast(
            Iterable[tuple[str, Observation]],
            parallel(delayed(carry_out)(self.slo, key, *missing[key]) for key in order),
        )

    def key(self, world: World, run: Run) -> str:
        """A digest of everything that the observation depends on."""
        asked = {
            "world": world.identity,
            "run": [run.replicas, run.rate.hex(), run.seed, run.num_requests],
            "bounds": [bound.name for bound in self.slo.bounds],
            "goodput": list(self.slo.goodput_ms),
            "rule": RULE,
            "version": __version__,
            "results_version": RESULTS_VERSION,
        }
        return _digest_text(json.dumps(asked, sort_keys=True))


def carry_out(slo: Slo, key: str, world: World, run: Run) -> tuple[str, Observation]:
    """One run, simulated and observed."""
    result = world.run(run)
    return key, observe(slo, result.columns, result.summary)


def together(
    searches: Sequence[tuple[World, Search[Any]]],
    runs: Callable[[Sequence[tuple[World, Run]]], Sequence[Observation]],
) -> list[Any]:
    """Carry several searches on side by side, so that their runs share the cores; what each found."""
    found: list[Any] = [None] * len(searches)
    asked: dict[int, list[Run]] = {}
    for k, (_, search) in enumerate(searches):
        _advance(search, None, k, asked, found)
    while asked:
        wanted = [(searches[k][0], run) for k, part in asked.items() for run in part]
        seen = list(runs(wanted))
        for k, part in list(asked.items()):
            mine, seen = seen[: len(part)], seen[len(part) :]
            del asked[k]
            _advance(searches[k][1], mine, k, asked, found)
    return found


def _advance(
    search: Search[Any],
    seen: list[Observation] | None,
    k: int,
    asked: dict[int, list[Run]],
    found: list[Any],
) -> None:
    try:
        asked[k] = next(search) if seen is None else search.send(seen)
    except StopIteration as end:
        found[k] = end.value


def _read(path: Path) -> dict[str, Observation]:
    """What the file holds; the file is cut after its last whole line."""
    if not path.exists():
        return {}
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    whole = content[: content.rfind(b"\n") + 1]
    known = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry = json.loads(line)
            known[str(entry["key"])] = Observation.from_json(entry["observation"])
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{path}, line {number}: not a line that `seqsched plan` wrote") from None
    if len(whole) < len(content):
        if not known and content[:8] != b'{"key": ':
            raise InputError(f"{path}, line 1: not a line that `seqsched plan` wrote")
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return known


def _digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _digest(trace: Trace) -> str:
    state = hashlib.sha256(str(trace.max_new_tokens).encode())
    for name in (*trace.columns(), "samples"):
        column = getattr(trace, name)
        if column is None or name == "request_id":
            continue
        state.update(name.encode())
        whole = np.ascontiguousarray(column)
        state.update(repr(column.tolist()).encode() if whole.dtype == object else whole.tobytes())
    return state.hexdigest()[:24]
