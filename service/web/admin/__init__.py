"""The admin API: who may use it, its handlers and schemas, the event stream. Its pages are in `web/dashboard`."""
