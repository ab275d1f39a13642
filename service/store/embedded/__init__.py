"""The private Redis server of the service: finding one, running it, watching it."""
