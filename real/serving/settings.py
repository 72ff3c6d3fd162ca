"""What can be chosen of the layer; the sentence under each field is its help."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from traces.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How `seqsched serve` listens, schedules and limits."""

    host: str = "127.0.0.1"
    """The address to listen at; one that others can reach needs --keys."""
    port: int = 8080
    """The port to listen at; 0: any that is free."""
    slots: int | Literal["auto"] = 8
    """Requests that each upstream works on at a time; auto: as it says itself (llama.cpp, SGLang), or as its
    metrics show it (vLLM).
    """
    policy: str = "continuous:order=shortest-predicted"
    """In which order waiting requests are sent: NAME[:key=value,...], as for simulate; max_num_seqs is the
    number of slots.
    """
    predictor: str = "online"
    """What predicts the lengths of answers: online (learnt from the traffic, the median until there is
    enough), median, learned:file=PATH (`seqsched predictor train`), or some.module:Class.
    """
    act: Literal["hold", "tell"] = "hold"
    """hold: keep a queue, and send where a slot is free; tell: send at once, and give the upstream a priority
    made from the prediction (vLLM with --scheduling-policy priority).
    """
    fcr: Literal["off", "on"] = "off"
    """Failure collection: ask for as many tokens as an answer probably has, and let one that runs over wait
    again with its text so far; /v1/completions alone, with plain prompts.
    """
    share: float = 1.0
    """The share of the traffic that --policy orders, 0 to 1; the rest goes first come, first served. A key,
    or a `user` that requests name, stays on one side.
    """
    guard: bool = False
    """Serve all first come, first served as soon as the policy's share is worse by more than chance: other
    answer lengths, more failures, or a longer mean latency.
    """
    mirror: float = 0.0
    """Ask for this share of the greedy answers again, in slots that nobody wants, and compare: 0 to 1."""
    max_wait_s: float = 60.0
    """The starvation bound: who has waited this long goes before all that arrived later."""
    max_new_tokens: int = 4096
    """The longest answer to plan for, of requests without a cap."""
    max_queue: int | None = 1000
    """Most requests that wait; further ones get status 429."""
    rate_per_key: float | None = None
    """Most requests per second of one API key, in bursts of up to ten seconds' worth; default: no limit."""
    concurrency_per_key: int | None = None
    """Most open requests of one API key; default: no limit."""
    ssl_certfile: Path | None = None
    """The certificate to serve HTTPS with (PEM)."""
    ssl_keyfile: Path | None = None
    """The key of that certificate (PEM), where it is not in the same file."""
    keys: Path | None = None
    """Let only the API keys in this file in: lines NAME KEY [PRIORITY [CLASS]]."""
    priority: tuple[str, ...] = ()
    """Levels of importance by model, as MODEL=LEVEL; a lower number goes first."""
    timeout_s: float = 600.0
    """Seconds until an answer is given up."""
    idle_timeout_s: float = 120.0
    """Seconds without a byte from the upstream until an answer is given up."""
    retries: int = 2
    """How often a request is sent again that failed before anything of its answer was passed on."""
    drain_s: float = 30.0
    """Seconds that open requests may take yet when the layer is told to end."""
    max_body: int = 16 << 20
    """Most bytes of a request's body."""
    log: Path | None = None
    """Append a row for each request to this file, which is a trace: JSON lines, or Parquet where it is named
    *.parquet (extra [parquet]).
    """
    log_texts: bool = False
    """Write the prompts into the log."""
    log_prefixes: bool = True
    """Write hashes of the prompts' beginnings into the log."""
    decisions: Path | None = None
    """Append the scheduler's decisions to this file (JSON lines)."""

    def check(self) -> None:
        """InputError for a value out of bounds."""
        if self.slots != "auto" and self.slots < 1:
            raise InputError(f"slots: {self.slots} is below 1")
        for name, least in (
            ("max_new_tokens", 1),
            ("retries", 0),
            ("max_body", 1),
            ("port", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name}: {getattr(self, name)} is below {least}")
        if self.port > 65535:
            raise InputError(f"port: {self.port} is above 65535")
        for name in ("max_wait_s", "timeout_s", "idle_timeout_s", "rate_per_key"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name}: {value:g} is not above 0, and finite")
        for name, least in (("max_queue", 0), ("concurrency_per_key", 1), ("drain_s", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise InputError(f"{name}: {value:g} is below {least}, or not finite")
        self._check_share()
        self._check_access()

    def _check_share(self) -> None:
        for name in ("share", "mirror"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: {getattr(self, name):g} is not between 0 and 1")
        if self.guard and not 0 < self.share < 1:
            raise InputError(
                f"guard: share {self.share:g} leaves nothing to compare; needs one between 0 and 1"
            )
        if self.fcr == "on" and self.act == "tell":
            raise InputError("fcr: needs --act hold; an upstream that is told keeps the queue")
        if self.share < 1 and self.act == "tell":
            raise InputError("share: needs --act hold; an upstream that is told orders by itself")

    def _check_access(self) -> None:
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise InputError(f"ssl_keyfile: {self.ssl_keyfile} has no certificate; --ssl-certfile names it")
        if self.keys is None and not _is_loopback(self.host):
            raise InputError(
                f"host: {self.host} can be reached from elsewhere; --keys FILE must say who is let in"
            )

    def levels(self) -> dict[str, int]:
        """The levels by model; InputError for what is none."""
        levels = {}
        for text in self.priority:
            model, equals, level = text.rpartition("=")
            if not equals or not model or not level.removeprefix("-").isdecimal():
                raise InputError(f"priority: {text!r} is not MODEL=LEVEL, such as chat=-1")
            levels[model] = int(level)
        return levels


def upstream_urls(text: str) -> list[str]:
    """The addresses in URL[,URL...], without a slash or the path of the API at their ends.

    Raises InputError for what is none, and for one that stands twice.
    """
    urls = [url.strip().rstrip("/").removesuffix("/v1").rstrip("/") for url in text.split(",")]
    for url in urls:
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address:
            shown = repr(url) if "@" not in url else "what stands there"  # it may hold a password
            raise InputError(
                f"upstream: {shown} is not the address of a server, such as http://localhost:8000"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InputError("upstream: an address has neither a password, a query nor a fragment here")
        if urls.count(url) > 1:
            raise InputError(f"upstream: {url} stands {urls.count(url)} times, 1 is allowed")
    return urls


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
