"""The options of sequence scheduling, with or without groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .quantile_option import quantile_of


@dataclass(frozen=True)
class SequenceOptions:
    """Options of the `sequence` policy; the defaults are the paper's."""

    group_size: int = 256
    """Most requests that are perceived and sorted together."""
    batch_size: int = 16
    """Rows of a batch of long answers, of every batch without VBS, and of recomputed batches."""
    vbs: Literal["table", "memory", "off"] = "table"
    """Variable batch size: the published table, from KV memory and the cost knee, or none (and no bins)."""
    fcr: bool = True
    """Failure collection and recomputation: stop a batch at its predicted length, recompute later what was
    cut.
    """
    bins: Literal["width", "least-time"] = "width"
    """Bins of `bin_width` tokens, or a group cut where it decodes for the least time (with vbs=memory)."""
    bin_width: int = 50
    """Width of a length bin in tokens; limits are rounded up to its multiples."""
    requeue: bool = False
    """What was cut off keeps its tokens and joins the next group for the rest; off: it is recomputed."""
    limit: str = "bin"
    """Where fcr stops a batch: at the edge of its bin, or at quantile:Q, the length that each of its answers
    stays below with probability Q, as far as predictions tell.
    """
    margin: float = 0.0
    """Safety margin on predictions: whole tokens or, between 0 and 1, a quantile of the true length."""
    max_wait_s: float = 0.0
    """Longest wait for a bin to fill; 0: a group is whatever waits when the accelerator is free."""
    perceive_batch: int = 128
    """Requests asked for their length in one batch."""

    def __post_init__(self) -> None:
        for name in ("group_size", "batch_size", "bin_width", "perceive_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.vbs not in ("table", "memory", "off"):
            raise ValueError(f"vbs: {self.vbs} must be one of table, memory, off")
        if self.bins not in ("width", "least-time"):
            raise ValueError(f"bins: {self.bins} must be one of width, least-time")
        if self.bins == "least-time" and (self.vbs != "memory" or self.max_wait_s > 0):
            raise ValueError("bins: least-time needs vbs=memory and groups (max_wait_s=0)")
        if not 0.0 <= self.margin < 1e6:
            raise ValueError(f"margin: {self.margin} must be at least 0 and below 1000000")
        if self.margin > 1.0 and self.margin != int(self.margin):
            raise ValueError(f"margin: {self.margin} must be whole tokens, or a quantile between 0 and 1")
        self._check_limit()
        if not 0.0 <= self.max_wait_s < 1e9:
            raise ValueError(f"max_wait_s: {self.max_wait_s} must be at least 0 and below 1000000000")

    @property
    def limit_quantile(self) -> float | None:
        """Q of `limit=quantile:Q`."""
        return quantile_of("limit", self.limit)

    @property
    def upper_quantile(self) -> float | None:
        """The quantile that predictors shall report; None: not needed."""
        return self.margin if 0.0 < self.margin < 1.0 else self.limit_quantile

    def _check_limit(self) -> None:
        if self.limit_quantile is not None:
            if not self.fcr:
                raise ValueError(f"limit: {self.limit} needs fcr=on, which stops batches")
            if 0.0 < self.margin < 1.0:
                raise ValueError(f"limit: {self.limit} and margin: {self.margin} are two quantiles; give one")
        elif self.limit != "bin":
            raise ValueError(f"limit: {self.limit!r} must be bin or quantile:Q")
