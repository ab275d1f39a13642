"""Everything Redis: keys, scripts, and what reads and writes them. No HTTP."""
