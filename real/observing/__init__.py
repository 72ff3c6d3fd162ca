"""A client that watches somebody's server: sends the requests of a trace, measures, and writes a log.

Knows nothing of torch, and nothing of how the server schedules.
"""
