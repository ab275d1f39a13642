"""The configuration: types, loading and validation. `policy_factory.py` makes policies from it."""
