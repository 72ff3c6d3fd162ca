"""Every combination of some lists of settings, simulated into one table."""
