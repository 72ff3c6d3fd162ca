"""From the settings of a fleet to its accelerators, one per replica: what each costs and can hold."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from traces.errors import InputError

from ..execution.frontend import Frontend
from ..fleet.outages import Outages
from ..hardware import catalogue, overrides
from ..hardware.host import DELAYS
from ..hardware.profile import KINDS, Profile
from ..work import Limits
from .policies import limits_of
from .settings import MachineSettings

MAX_REPLICAS = 100_000


class Accelerator(NamedTuple):
    """How long its iterations take, and what a scheduler may know of it."""

    profile: Profile
    limits: Limits


def accelerators_of(settings: MachineSettings, perception_tokens: int) -> tuple[Accelerator, ...]:
    """One per replica, the settings' overrides applied.

    `perception_tokens`: what the predictor adds to a prompt and its answer. Raises InputError for profiles
    that are not there, counts out of bounds, and for `replicas` beside a fleet.
    """
    if not 1 <= settings.replicas <= MAX_REPLICAS:
        raise InputError(f"replicas: {settings.replicas} must be between 1 and {MAX_REPLICAS}")
    if settings.fleet is None:
        profiles = [_load(settings.profile)] * settings.replicas
    else:
        profiles = profiles_of_fleet(settings.fleet)
        if settings.replicas != 1:
            raise InputError(
                f"replicas: {settings.replicas}, but the fleet {fleet_text(settings.fleet)} says itself how "
                "many there are"
            )
    built: dict[int, Accelerator] = {}
    for given in profiles:
        if id(given) not in built:
            changed = overrides.apply(given, settings.set)
            limits = limits_of(
                changed,
                settings.kv_blocks,
                settings.block_size,
                perception_tokens=perception_tokens,
                kv_tier=settings.kv_tier,
            )
            built[id(given)] = Accelerator(changed, limits)
    return tuple(built[id(given)] for given in profiles)


def frontend_of(machines: Sequence[Accelerator]) -> Frontend | None:
    """What stands before these machines; None where their profiles have none.

    Where they differ, its times are the means over the machines.
    """
    hosts = [machine.profile.host for machine in machines]
    if not any(host.delays_requests for host in {id(host): host for host in hosts}.values()):
        return None
    seconds = {
        key.replace("_ms", "_s"): sum(getattr(host, key) for host in hosts) / len(hosts) / 1e3
        for key in DELAYS
    }
    return Frontend(**seconds, num_replicas=len(machines))


def outages_of(settings: MachineSettings) -> Outages:
    """When the replicas are down."""
    return Outages(settings.mtbf_s, settings.mttr_s, settings.failures, settings.startup_s)


def profiles_of_fleet(fleet: str | Sequence[Profile]) -> list[Profile]:
    """One profile per replica of `NAME*COUNT;NAME*COUNT`; InputError for one that is not there."""
    if not isinstance(fleet, str):
        profiles = list(fleet)
        if not 1 <= len(profiles) <= MAX_REPLICAS:
            raise InputError(f"fleet: {len(profiles)} replicas are not between 1 and {MAX_REPLICAS}")
        return profiles
    profiles = []
    for part in fleet.split(";"):
        name, star, count = part.strip().rpartition("*")
        if not star:
            name, count = part.strip(), "1"
        if not name.strip() or not count.isdecimal() or not 1 <= int(count) <= MAX_REPLICAS:
            raise InputError(f"fleet: {part.strip()!r} is not NAME*COUNT with 1 to {MAX_REPLICAS} replicas")
        if len(profiles) + int(count) > MAX_REPLICAS:
            raise InputError(f"fleet: {fleet!r} has more than {MAX_REPLICAS} replicas")
        profiles += [_load(name.strip())] * int(count)
    return profiles


def fleet_text(fleet: str | Sequence[Profile]) -> str:
    """The fleet as `NAME*COUNT;NAME*COUNT`."""
    if isinstance(fleet, str):
        return fleet
    runs = [(name, len(list(run))) for name, run in groupby(profile.name for profile in fleet)]
    return ";".join(f"{name}*{count}" for name, count in runs)


def provenance_of(profiles: Sequence[Profile]) -> str:
    """Where the numbers come from: the worst kind that is among the machines."""
    return max((profile.provenance.kind for profile in profiles), key=KINDS.index)


def _load(given: str | Profile) -> Profile:
    return catalogue.load(given) if isinstance(given, str) else given
