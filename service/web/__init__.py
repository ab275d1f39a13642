"""Everything that concerns HTTP; `routes.py` lists every operation. It imports only `core`."""
