"""Rollcall: session status, limits and restrictions in front of a multi-tenant API.

Read `app.py` first: it is the composition root, the one module that sees everything.
`core` is plain Python without I/O, `store` is everything Redis, `web` is everything HTTP.
"""

__version__ = "0.1.0"
