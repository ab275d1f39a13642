"""TODO service/store/embedded."""
