"""Tokens and key sets of other software, judged by the service: `make interoperability`."""
