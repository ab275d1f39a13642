"""Sessions in Redis: lists, operators' actions, expiry and repair."""
