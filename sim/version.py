"""The version of the distribution, written on every result."""

__version__ = "0.1.0"
