"""TODO service/core/text."""
