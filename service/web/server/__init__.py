"""The HTTP server: connections, the hot path, sizes and deadlines. It knows requests, but no operation."""
