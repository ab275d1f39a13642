"""What runs beside the requests: refresh of key sets, delivery of webhooks. No request waits for it."""
