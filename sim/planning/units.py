"""What a plan counts: machines, or copies of a mix of them, and what one costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from traces.errors import InputError
from traces.spec import nearest

from ..hardware import overrides
from ..hardware.catalogue import COMPARED
from ..hardware.catalogue import load as load_profile
from ..hardware.catalogue import names as profile_names
from ..hardware.datasheets import GPUS
from ..hardware.profile import Profile
from ..scenario.machines import fleet_text, profiles_of_fleet
from ..scenario.settings import Settings


class Unit(NamedTuple):
    """What a fleet is made of: a machine, or one copy of a mix of them.

    `name`: as it was given. `bases`: the profiles as they were named; `machines`: with what-ifs applied.
    """

    name: str
    bases: tuple[Profile, ...]
    machines: tuple[Profile, ...]

    @property
    def kinds(self) -> list[Profile]:
        """Its machines, each kind once."""
        return list({machine.name: machine for machine in self.machines}.values())

    @property
    def label(self) -> str:
        """What answers call it."""
        return self.machines[0].name if len(self.machines) == 1 else fleet_text(self.machines)

    @property
    def gpu(self) -> str:
        """The names of its GPUs; empty where they are not known."""
        return ", ".join(dict.fromkeys(m.gpu.name for m in self.machines if m.gpu))

    @property
    def num_gpus(self) -> int:
        """GPUs of all its machines."""
        return sum(machine.num_gpus for machine in self.machines)

    def price(self, prices: Mapping[str, float]) -> float | None:
        """USD per hour of one; None where one of its machines has no price.

        A price by the name of a profile is that of a machine, one by the name of a GPU is multiplied by the
        machine's GPUs; without either the profile's own counts.
        """
        total = 0.0
        for base, machine in zip(self.bases, self.machines, strict=True):
            name = _priced_by(base, machine, prices)
            if name is None:
                price = machine.price_per_hour
            else:
                price = prices[name] * (1 if name in (machine.name, base.name) else machine.num_gpus)
            if price is None:
                return None
            total += price
        return total

    def priced_by(self, prices: Mapping[str, float]) -> set[str]:
        """The names of the prices that count for one."""
        names = {
            _priced_by(base, machine, prices) for base, machine in zip(self.bases, self.machines, strict=True)
        }
        return {name for name in names if name is not None}


def _priced_by(base: Profile, machine: Profile, prices: Mapping[str, float]) -> str | None:
    """The name by which a machine has its price; None where that is none of these."""
    names = (machine.name, base.name, *((machine.gpu.name,) if machine.gpu else ()))
    return next((name for name in names if name in prices), None)


def unused_prices(prices: Mapping[str, float], units: Sequence[Unit]) -> list[str]:
    """A sentence on each price that counts for no machine of the plan."""
    used = set[str]().union(*(unit.priced_by(prices) for unit in units))
    have = ", ".join(dict.fromkeys(f"{unit.label} ({unit.gpu or 'GPU not known'})" for unit in units))
    return [
        f"The price of {name}, {prices[name]:g} USD an hour, counts for no machine of this plan, which has "
        f"{have}."
        for name in prices
        if name not in used
    ]


def units_of(profiles: Sequence[str | Profile] | str | Profile | None, settings: Settings) -> list[Unit]:
    """What a plan is to find the number of: each profile (the default ones where none is given), or the
    mix that the settings name.
    """
    if settings.fleet is not None:
        if profiles is not None:
            text = fleet_text(settings.fleet)
            raise InputError(f"profiles: {profiles!r} beside the fleet {text!r}; give one of the two")
        return [_unit(fleet_text(settings.fleet), profiles_of_fleet(settings.fleet), settings)]
    if isinstance(profiles, Profile):
        named: list[str | Profile] = [profiles]
    else:
        named = split(COMPARED if profiles is None else profiles)
    loaded = [part if isinstance(part, Profile) else load_profile(part) for part in named]
    names = [profile.name for profile in loaded]
    if not names or len(set(names)) < len(names):
        raise InputError(f"profiles: {';'.join(names)!r} must name at least one profile, and none twice")
    return [
        _unit(part.name if isinstance(part, Profile) else str(part), [base], settings)
        for part, base in zip(named, loaded, strict=True)
    ]


def _unit(name: str, bases: Sequence[Profile], settings: Settings) -> Unit:
    changed = {id(base): overrides.apply(base, settings.set) for base in bases}
    return Unit(name, tuple(bases), tuple(changed[id(base)] for base in bases))


def prices_of(given: Mapping[str, float] | Iterable[str], machines: Sequence[Profile]) -> dict[str, float]:
    """USD per hour by name, of a profile or of one GPU, from a mapping or from texts `NAME:USD` (or one, with
    spaces between); InputError for one not known, nor in `machines`.
    """
    known = {*GPUS, *profile_names(), *(m.name for m in machines), *(m.gpu.name for m in machines if m.gpu)}
    pairs: list[tuple[str, Any]] = []
    if isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        for text in given.split() if isinstance(given, str) else given:
            name, colon, value = str(text).rpartition(":")
            if not colon or not name:
                raise InputError(f"price: {text!r} is not NAME:USD, as in H200:3.50")
            pairs.append((name, value))
    prices: dict[str, float] = {}
    for name, value in pairs:
        if name not in known:
            here = f"({', '.join(sorted(known))}){nearest(name, known)}"
            raise InputError(f"price: {name!r} is no profile or GPU known here {here}")
        if name in prices:
            raise InputError(f"price: {name} is given twice ({prices[name]:g} and {value} USD per hour)")
        try:
            prices[name] = float(value)
        except (TypeError, ValueError):
            raise InputError(f"price: {name}:{value} is not a number of USD per hour") from None
        if not 0 <= prices[name] < 1e9:
            raise InputError(f"price: {name}:{value} is not between 0 and 1e9 USD per hour")
    return prices


def split(texts: Sequence[Any] | str) -> list[Any]:
    """The parts of a text with semicolons between them; what is a list already, as it is."""
    if isinstance(texts, str):
        return [part.strip() for part in texts.split(";") if part.strip()]
    return list(texts)
