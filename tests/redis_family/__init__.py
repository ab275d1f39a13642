"""What `make test-stores` runs: the suites on each server of the Redis family, and data that one takes over."""
