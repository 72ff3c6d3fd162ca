"""The fewest replicas, or the highest rate, within an SLO."""
