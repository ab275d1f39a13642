"""The users' and proxies' API: authentication, forward-auth, envelopes, errors, headers."""
