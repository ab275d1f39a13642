"""Plain Python: no server, no Redis, no sleep. Loopback sockets only where a socket is what is tested."""
