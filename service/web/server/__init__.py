"""TODO service/web/server."""
