"""Users' tokens: verification, keys, claims, and the kinds of token that are accepted."""
