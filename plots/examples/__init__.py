"""Worked capacity-planning questions: `python plots/examples/NAME.py`."""
