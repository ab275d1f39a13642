"""TODO service/web/api."""
