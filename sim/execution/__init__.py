"""Carries out Work in simulated time on one accelerator."""
