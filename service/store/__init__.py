"""Everything that concerns Redis: keys, functions, connections, reads and writes. No HTTP."""
