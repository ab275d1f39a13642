"""The configuration: settings with their ranges, loading, and checks. `policy_factory.py` makes policies from it."""
