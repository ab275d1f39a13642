"""TODO service/core/routing."""
