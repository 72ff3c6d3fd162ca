"""A predictor that can be asked again while an answer grows."""

from __future__ import annotations

from dataclasses import dataclass

from .again import Again
from .predictors import TUNED_SIGMA, Noisy


@dataclass(frozen=True)
class Progressive(Noisy):
    """A trained predictor that is asked again while the answer grows, and errs less the further it is (TRAIL,
    arXiv 2410.01035; ELIS, arXiv 2505.09142).

    At first it errs as `noisy` does, by `sigma` or a `file`, by default as the paper's tuned predictor; then
    its error falls by the law of `sim.perception.again`.
    """

    sigma: float | None = None
    """Standard deviation of the error of the logarithm of the length, before the answer begins; by default
    0.39, unless there is a `file`."""
    miss: float = 0.10
    """With `sigma`: share of requests whose first prediction has nothing to do with them."""
    round_to: int = 1
    """First answers are multiples of this many tokens."""
    charge: bool = True
    """Charge the accelerator for asking before the answer begins."""
    shrink: float = 1.0
    """How soon the error falls: after a share s of the answer its logarithm is (1 - s) ** shrink of it."""
    ask_ms: float = 0.0
    """Milliseconds that each question while it grows adds to its iteration."""

    def __post_init__(self) -> None:
        if self.sigma is None and self.file is None:
            object.__setattr__(self, "sigma", TUNED_SIGMA)
        super().__post_init__()
        if not 0.0 <= self.shrink <= 100.0:
            raise ValueError(f"shrink: {self.shrink} must be between 0 and 100")
        if not 0.0 <= self.ask_ms <= 1e6:
            raise ValueError(f"ask_ms: {self.ask_ms} must be between 0 and 1000000")

    @property
    def again(self) -> Again:
        """The law of its later answers."""
        return Again(self.shrink, self.ask_ms / 1e3)
