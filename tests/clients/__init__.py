"""Libraries and generated clients of npm, used against the service: `make clients`."""
