"""The configuration: its types, loading it, and what is wrong with it. `policy_factory.py` makes policies of it."""
