"""Sessions in Redis: reading and listing them, operators' actions, expiry and repair."""
