"""TODO service/config."""
