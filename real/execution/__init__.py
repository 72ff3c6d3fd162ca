"""Carries out Work in wall-clock time on an engine."""
