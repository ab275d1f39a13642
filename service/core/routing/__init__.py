"""Rules for proxied requests: reading a path, and finding the rule in a tree."""
