"""Engines: run token sequences on a model; know nothing of schedulers."""
