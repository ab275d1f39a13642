"""The API of users and proxies: authentication, forward authentication, errors, headers. Operators have `web/admin`."""
