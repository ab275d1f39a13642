"""TODO service/web/admin."""
