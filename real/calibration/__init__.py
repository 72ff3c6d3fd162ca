"""Measures a machine: step times, memory, and the floor that no step can go below."""
