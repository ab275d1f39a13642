"""Admissions in Redis: batches, the cache of denials, the retention of windows."""
