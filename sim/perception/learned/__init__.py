"""A predictor of answers' lengths that has learned from somebody's log: what is in its file, and how it
predicts. Needs no scikit-learn; `sim.learning` trains it.
"""

from .linear import LEVELS, LengthPrediction
from .model import LearnedPredictor

__all__ = ["LEVELS", "LearnedPredictor", "LengthPrediction"]
