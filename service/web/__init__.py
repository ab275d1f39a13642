"""Everything HTTP. It knows `core` alone."""
