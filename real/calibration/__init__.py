"""Measures a machine: step times, memory, and the floor below which no step can be."""
