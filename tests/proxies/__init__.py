"""The five proxies with the files of `examples/`, in front of an API that records what it receives."""
