"""TODO service/background."""
