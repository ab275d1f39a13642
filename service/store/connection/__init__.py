"""Connections to Redis: URLs, topologies, failovers, the admissions' pipeline, and checks of the server."""
