"""Events: their streams, subscribers, the state of webhooks, traffic statistics."""
