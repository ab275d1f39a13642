"""TODO service/store/connection."""
