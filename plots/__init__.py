"""Figures of results and traces: functions that draw data on an Axes, and helpers that make whole figures."""
