"""Background work: refresh of key sets, delivery of webhooks. No request waits for it."""
