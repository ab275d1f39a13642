"""The admin API: who may use it, its routes and schemas, the event stream."""
