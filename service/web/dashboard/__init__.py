"""TODO service/web/dashboard."""
