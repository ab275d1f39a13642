"""TODO service/core/tokens."""
