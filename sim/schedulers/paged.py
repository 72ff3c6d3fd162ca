"""What executors may ask of the memory of any scheduler over a `KvCache`; decides nothing."""

from __future__ import annotations

from ..request import Request
from ..work import Limits
from .kv_cache import KvCache
from .prefixes import SharedPrefixes


class Paged:
    """The members that tell of memory; a scheduler has `kv` and `limits`."""

    __slots__ = ()
    kv: KvCache
    limits: Limits

    @property
    def kv_capacity_tokens(self) -> int:
        """KV tokens that requests can hold: all whole blocks of the machine but those that are kept."""
        return self.limits.kv_tokens

    @property
    def kv_peak_tokens(self) -> int:
        """The most KV memory ever held, in tokens of whole blocks."""
        return self.kv.peak_tokens

    @property
    def prefix_cache(self) -> SharedPrefixes | None:
        """What requests share in memory; None: each has its own."""
        prefixes = self.kv.prefixes
        return prefixes if isinstance(prefixes, SharedPrefixes) else None

    def sent_elsewhere(self, request: Request) -> bool:
        """Nothing is kept for it."""
        return False
