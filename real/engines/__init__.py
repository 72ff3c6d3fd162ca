"""Run token sequences on a model; know nothing of schedulers."""
