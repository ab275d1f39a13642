"""Everything Redis. Nothing above this package knows a key, a script or a command."""
