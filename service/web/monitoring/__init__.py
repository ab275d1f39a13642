"""Health checks, metrics, and what the log throttles or redacts."""
