"""What a request is, what it may do, and what becomes of its user: no I/O, no HTTP, no Redis."""
