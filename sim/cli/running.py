"""Flags that say where many simulations run and where their results are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..parallel.runner import Backend

Jobs = Annotated[int, Parameter(help="Processes on this machine; -1: one per core; 1: this process itself.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Running:
    """Where simulations run."""

    jobs: Jobs = -1
    backend: Backend = "joblib"
    """Where simulations run: joblib (this machine) or dask (a cluster, see --address)."""
    address: str | None = None
    """The Dask scheduler, such as tcp://10.0.0.1:8786."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Resumable(Running):
    """Where simulations run, and where they are kept."""

    state: Path | None = None
    """Keep every run in this JSON Lines file; what was stopped goes on from there, by the same command."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class StudyRunning(Resumable):
    """The same, in this process if nothing else is said: most studies are short."""

    jobs: Jobs = 1
