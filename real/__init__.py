"""Runs the simulator's schedulers, unchanged, on a real model: execution, calibration, validation.

Needs the `real` extra (torch, transformers); nothing in `sim` or `traces` imports this package.
"""
