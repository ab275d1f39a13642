"""TODO service/web/openapi."""
