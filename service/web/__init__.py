"""Everything that concerns HTTP. It imports only `core`."""
