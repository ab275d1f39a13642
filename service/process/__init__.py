"""The process: sockets, signals, workers, reloads and the end. Nothing here knows a request."""
