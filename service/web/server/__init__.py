"""The HTTP server: connections, the hot path, sizes and deadlines."""
