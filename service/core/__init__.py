"""Decisions in plain Python: no I/O, no HTTP, no Redis."""
