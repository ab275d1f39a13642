"""The admissions' trips to Redis: batches, the cache of denials, windows that are kept for longer."""
