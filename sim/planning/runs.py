"""Carries out the runs that searches need, in parallel, and keeps what they observed in a file.

Knows nothing of what is searched for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..parallel.runner import HERE, Runner, Workers
from ..parallel.state_file import StateFile
from ..parallel.tasks import Shared, Task
from ..scenario.inputs import check_unchanged, digest
from ..version import RESULTS_VERSION, __version__
from .search import Search
from .slo import RULE, Observation, Slo, observe
from .verdict import Run
from .world import World


class Runs:
    """Carries out runs, each once, and remembers what they observed, in a JSON Lines file if one is given.

    A line is written when its run ends, so that whoever starts again with the same file redoes no run.
    `on_run(number)` is called after each.
    """

    def __init__(
        self,
        slo: Slo,
        state: str | Path | None = None,
        workers: Workers = HERE,
        on_run: Callable[[int], None] | None = None,
    ) -> None:
        self.slo, self.on_run = slo, on_run
        self.num_simulated = 0
        self.runner = Runner(workers)
        self.state = StateFile(
            state, lambda line: Observation.from_json(line["observation"]), "seqsched plan"
        )

    def __call__(self, wanted: Sequence[tuple[World, Run]]) -> list[Observation]:
        """What each of these runs observed, in order; InputError, naming the run, where one fails."""
        keys = [self.key(world, run) for world, run in wanted]
        runs = dict(zip(keys, wanted, strict=True))
        # The longest first, so that no core is left alone with one of them at the end.
        order = sorted(runs, key=lambda key: -runs[key][1].num_requests)
        tasks = [Task(key, (self.slo, Shared(runs[key][0]), runs[key][1])) for key in order]
        failed = {}
        for ended in self.runner.run(carry_out, tasks, self.state.known):
            if ended.error is None:
                self._keep(ended.key, runs[ended.key][1], ended.value)
            else:
                failed[ended.key] = ended
        # Which of several failures is named must not depend on which ended first.
        for key, (world, run) in runs.items():
            if key in failed:
                failed[key].value_or_raise(world.name_of(run))
        return [self.state.known[key] for key in keys]

    def _keep(self, key: str, run: Run, observation: Observation) -> None:
        self.state.append(key, observation, {"run": _shown(run), "observation": observation.to_json()})
        self.num_simulated += 1
        if self.on_run is not None:
            self.on_run(self.num_simulated)

    def key(self, world: World, run: Run) -> str:
        """A digest of everything that the observation depends on."""
        return digest(
            {
                "world": world.identity,
                "run": [run.replicas, run.rate.hex(), run.seed, run.num_requests, run.outages, run.is_replay],
                "bounds": [bound.name for bound in self.slo.bounds],
                "goodput": list(self.slo.goodput_ms),
                "rule": RULE,
                "version": __version__,
                "results_version": RESULTS_VERSION,
            }
        )

    def close(self) -> None:
        """Let the workers and the file go."""
        self.runner.close()
        self.state.close()

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shown(run: Run) -> dict[str, Any]:
    """A run as a line of the file shows it; its key tells apart what is left out."""
    hidden = ("outages",) if run.is_replay else ("outages", "is_replay")
    return {name: value for name, value in run._asdict().items() if name not in hidden}


def carry_out(slo: Slo, world: World, run: Run) -> Observation:
    """One run, simulated and observed; InputError where a file is not the one that the plan began with."""
    began = world.identity["inputs"]
    check_unchanged([(name, text, began[name]) for name, text in world.texts().items()], "plan")
    result = world.run(run)
    return observe(slo, result.columns, result.summary, is_replay=run.is_replay)


def run_searches(
    searches: Sequence[tuple[World, Search[Any]]],
    runs: Callable[[Sequence[tuple[World, Run]]], Sequence[Observation]],
) -> list[Any]:
    """The result of each search; they advance side by side, so that their runs share the cores."""
    results: list[Any] = [None] * len(searches)
    needed: dict[int, list[Run]] = {}
    for k, (_, search) in enumerate(searches):
        _advance(search, None, k, needed, results)
    while needed:
        wanted = [(searches[k][0], run) for k, part in needed.items() for run in part]
        observations = list(runs(wanted))
        for k, part in list(needed.items()):
            own, observations = observations[: len(part)], observations[len(part) :]
            del needed[k]
            _advance(searches[k][1], own, k, needed, results)
    return results


def _advance(
    search: Search[Any],
    observations: list[Observation] | None,
    k: int,
    needed: dict[int, list[Run]],
    results: list[Any],
) -> None:
    """Carry one search on to the runs that it needs next, or to its result."""
    try:
        needed[k] = next(search) if observations is None else search.send(observations)
    except StopIteration as end:
        results[k] = end.value
