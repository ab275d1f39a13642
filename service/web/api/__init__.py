"""The API of users and proxies: authentication, forward authentication, envelopes, errors, headers."""
