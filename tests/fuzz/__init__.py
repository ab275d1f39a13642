"""Malformed requests, paths, tokens and configurations, generated at random."""
