"""What runs beside the requests: refresh of key sets, delivery of webhooks, open sessions. No request waits for it."""
