"""The version of the distribution, written on every result, and that of the figures it computes."""

__version__ = "0.2.0"

RESULTS_VERSION = 29
"""Raised whenever a simulated figure changes. Part of every key by which a run is found again, so that no
resumed sweep or plan mixes figures of two versions; tests/frozen holds it to the outputs of many commands.
"""
