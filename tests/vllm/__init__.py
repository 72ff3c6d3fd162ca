"""Our decisions beside those of vLLM itself: random small worlds, a command that compares, and decisions
on record, so that tests need no vLLM.
"""
