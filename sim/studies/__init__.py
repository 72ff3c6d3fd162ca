"""Questions that take many simulations and end in a figure."""
