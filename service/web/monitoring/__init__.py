"""TODO service/web/monitoring."""
