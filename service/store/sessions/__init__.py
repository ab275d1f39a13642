"""Sessions in Redis: lists, operators' actions, expiry and repair. Requests are decided in `store/admissions`."""
