"""TODO service/store/events."""
