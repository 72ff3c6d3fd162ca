"""The points of a sweep: reads and checks its settings, multiplies its lists out, gives each point a key.

A setting is a keyword argument of `simulate`. Knows nothing of where points run and where their results go.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from traces.arguments import check_names
from traces.errors import InputError, OutsideError
from traces.unpacking import refuse_device

from ..results.warmup import read_warmup
from ..scenario.inputs import digest_of
from ..scenario.policies import DEFAULT_POLICY, make_scheduler
from ..scenario.scenario import scenario
from ..scenario.settings import Settings, kinds_of
from ..version import RESULTS_VERSION, __version__

MAX_POINTS = 1_000_000
TRIALS = 20
"""Points that are set up, at most, before a value is held to be the one at fault."""

PLURALS = {
    "traces": "trace",
    "policies": "policy",
    "predictors": "predictor",
    "profiles": "profile",
    "request_rates": "request_rate",
    "routers": "router",
    "fleets": "fleet",
    "seeds": "seed",
}
"""What a list may be called instead of its setting."""

ORDERS = ("trace", "num_prompts", "max_new_tokens", "sample_seed", "seed")
"""Settings by which points are put in the order of running, so that neighbours share a trace."""


KINDS: dict[Any, type] = {int: int, float: float, str: str, bool: bool, Mapping: dict, Iterable: list}
"""Part of a parameter's annotation -> what a TOML file may hold for it; of other parts it holds none."""


@dataclass(frozen=True)
class Setting:
    """A keyword argument of `simulate`: the types it may have, and its default."""

    name: str
    kinds: frozenset[type]
    default: Any

    @property
    def numeric(self) -> bool:
        """Whether it is a number in a table of results."""
        return bool(self.kinds & {int, float}) and str not in self.kinds

    def read(self, value: Any, where: str) -> Any:
        """The value as `simulate` takes it; InputError, naming `where`, for another type."""
        if isinstance(value, bool) and bool in self.kinds:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and self.kinds & {int, float}:
            return value if int in self.kinds else float(value)
        if isinstance(value, float) and float in self.kinds and not math.isnan(value):
            return value
        if isinstance(value, str) and str in self.kinds and len(value.splitlines()) == 1:
            return value
        if isinstance(value, list | tuple) and list in self.kinds and all(isinstance(v, str) for v in value):
            return list(value)
        if isinstance(value, Mapping) and dict in self.kinds:
            return dict(value)
        names = {int: "a whole number", float: "a number", str: "a text of one line", bool: "true or false"}
        names |= {list: "a list of texts", dict: "a table"}
        kinds = self.kinds - ({int} if float in self.kinds else set())
        raise InputError(f"{where}: {value!r} is not {' or '.join(names[k] for k in names if k in kinds)}")


@cache
def known_settings() -> Mapping[str, Setting]:
    """Every setting by name: policy and warm-up of a run, and those of `sim.scenario.settings`."""
    hints = get_type_hints(Settings)
    known = {
        "policy": Setting("policy", frozenset({str}), DEFAULT_POLICY),
        "warmup": Setting("warmup", frozenset({int, str}), None),
    }
    for field_ in fields(Settings):
        kinds = {KINDS[kind] for kind in kinds_of(hints[field_.name]) if kind in KINDS}
        known[field_.name] = Setting(field_.name, frozenset(kinds), field_.default)
    return MappingProxyType(known)


@dataclass(frozen=True)
class Point:
    """One simulation of a sweep: the settings that the sweep names, and digests of what they refer to.

    `key` depends on every setting, the content of trace, profile and other files, the version and the
    results version.
    """

    index: int
    key: str
    settings: Mapping[str, Any] = field(hash=False)
    inputs: Mapping[str, str] = field(hash=False)

    def value(self, name: str) -> Any:
        """What a setting is, by default where the sweep does not name it."""
        return self.settings.get(name, known_settings()[name].default)

    @property
    def cells(self) -> dict[str, Any]:
        """The settings as a table of results shows them: numbers, or one text each."""
        return {name: shown(name, value) for name, value in self.settings.items()}


@dataclass(frozen=True)
class Grid:
    """What a sweep varies and what it holds fixed; its points are the product, the last axis fastest."""

    name: str
    axes: Mapping[str, tuple[Any, ...]]
    fixed: Mapping[str, Any]

    def __len__(self) -> int:
        return math.prod(map(len, self.axes.values()))

    @property
    def given(self) -> set[str]:
        """The settings that it varies or holds fixed."""
        return {*self.axes, *self.fixed}

    def settings(self) -> Iterable[dict[str, Any]]:
        """The settings of every point, in order."""
        for values in itertools.product(*self.axes.values()):
            yield {**dict(zip(self.axes, values, strict=True)), **self.fixed}

    def points(self) -> list[Point]:
        """Every point; InputError for a trace, profile or value that no point can be set up with."""
        self._check_values()
        digests: dict[tuple[str, str], str] = {}
        points = []
        for index, settings in enumerate(self.settings()):
            inputs = inputs_of(settings, digests)
            full = {name: settings.get(name, s.default) for name, s in known_settings().items()}
            if full["warmup"] is None:  # so that keys are what they were before there was one
                del full["warmup"]
            text = json.dumps([full, inputs, __version__, RESULTS_VERSION], sort_keys=True)
            points.append(Point(index, hashlib.sha256(text.encode()).hexdigest()[:16], settings, inputs))
        return points

    def _check_values(self) -> None:
        """InputError for a value with which no point can be set up (of the first few that hold it).

        What the code of a class from outside raises is no such value: its points fail as they run.
        """
        for name, values in self.axes.items():
            for value in values:
                holding = replace_axis(self, name, value).settings()
                failed: InputError | None = None
                for settings in itertools.islice(holding, TRIALS):
                    try:
                        _set_up(settings)
                    except OutsideError:
                        break
                    except InputError as error:
                        failed = failed or error
                    else:
                        break
                else:
                    raise InputError(f"{self.name}: {failed}")


def replace_axis(grid: Grid, name: str, value: Any) -> Grid:
    """The part of a grid in which one axis has one value."""
    return Grid(grid.name, {**grid.axes, name: (value,)}, grid.fixed)


def read_grid(source: str | Path | Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Grid:
    """The grid of a TOML file, or of a mapping that holds what such a file does.

    Top level: fixed settings. Table `[grid]`: a list for each setting that varies. `defaults`: settings for
    what these leave open.
    Raises InputError, one line naming file, key, value and bound, for anything else.
    """
    name, data = ("sweep", source) if isinstance(source, Mapping) else (str(source), _toml(Path(source)))
    lists = data.get("grid")
    if not isinstance(lists, Mapping) or not lists:
        raise InputError(f"{name}: [grid] is missing or empty; it holds a list for each setting that varies")
    fixed: dict[str, Any] = {
        key: _setting(f"{name}, {key}", key).read(value, f"{name}, {key}")
        for key, value in data.items()
        if key != "grid"
    }
    axes: dict[str, tuple[Any, ...]] = {}
    for key, values in lists.items():
        where = f"{name}, grid.{key}"
        setting = _setting(where, PLURALS.get(str(key), str(key)))
        if setting.name in axes or setting.name in fixed:
            raise InputError(f"{where}: {setting.name} is given twice; once is enough")
        if not isinstance(values, list | tuple):
            raise InputError(f"{where}: {values!r} is not a list; what does not vary stands above [grid]")
        if not values:
            raise InputError(f"{where}: the list is empty; it must hold at least 1 value")
        axes[setting.name] = tuple(setting.read(value, where) for value in values)
        texts = [json.dumps(value, sort_keys=True) for value in axes[setting.name]]
        for text in texts:
            if texts.count(text) > 1:
                raise InputError(f"{where}: {text} is there {texts.count(text)} times; once is enough")
    grid = with_defaults(Grid(name, axes, fixed), defaults or {})
    if len(grid) > MAX_POINTS:
        raise InputError(f"{name}: {len(grid)} points are above {MAX_POINTS}, the most that a sweep takes")
    return grid


def with_defaults(grid: Grid, defaults: Mapping[str, Any]) -> Grid:
    """The grid with these settings for what it leaves open; a fleet has its own machines, and how many."""
    closed = grid.given | ({"profile", "replicas"} if "fleet" in grid.given else set())
    added = {
        name: _setting(f"defaults, {name}", name).read(value, f"defaults, {name}")
        for name, value in defaults.items()
        if name not in closed
    }
    return Grid(grid.name, grid.axes, {**grid.fixed, **added})


def inputs_of(settings: Mapping[str, Any], digests: dict[tuple[str, str], str]) -> dict[str, str]:
    """SHA-256 of what each setting refers to: its trace, profiles, files among its options, outside policies.

    `digests` keeps what was read before, by setting and value. Raises InputError for what is not there.
    """
    inputs = {}
    for name in known_settings():
        value = settings.get(name, known_settings()[name].default)
        texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        for text in texts:
            if (name, text) not in digests:
                digests[name, text] = digest_of(name, text)
            if digests[name, text]:
                inputs[f"{name} {text}"] = digests[name, text]
    return inputs


def running_order(points: Iterable[Point]) -> list[Point]:
    """The points in an order in which neighbours share a trace, then all but the policy."""

    def place(point: Point) -> tuple[str, str, int]:
        s = point.settings
        rest = {name: s[name] for name in sorted(s) if name not in (*ORDERS, "policy")}
        return json.dumps([s.get(name) for name in ORDERS]), json.dumps(rest, sort_keys=True), point.index

    return sorted(points, key=place)


def shown(name: str, value: Any) -> Any:
    """A setting in a cell: a number or text as it is, a list or table as one text, as its flag would be
    written.
    """
    if isinstance(value, Mapping):
        joint = ":" if name == "goodput" else "="
        return " ".join(f"{key}{joint}{item}" for key, item in value.items())
    return " ".join(value) if isinstance(value, list) else value


def _toml(path: Path) -> dict[str, Any]:
    try:
        refuse_device(path)
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from None


def _setting(where: str, name: str) -> Setting:
    try:
        check_names([name], known_settings())
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return known_settings()[name]


def _set_up(settings: Mapping[str, Any]) -> None:
    """Set up a point on a small trace of its own, so that only its other values count."""
    left_out = ("policy", "warmup", "trace", "time_unit", "num_prompts", "sample_seed")
    given = {k: v for k, v in settings.items() if k not in left_out}
    read_warmup(settings.get("warmup"))
    policy = settings.get("policy", DEFAULT_POLICY)
    make_scheduler(policy, scenario("fixed", num_prompts=1, **given).limits)
