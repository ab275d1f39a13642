"""Events in Redis: streams, subscribers, the state of webhooks, traffic statistics. `background` sends the webhooks."""
