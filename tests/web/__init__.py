"""The application over HTTP, in the process of the test. Processes and proxies are in `chaos` and `proxies`."""
