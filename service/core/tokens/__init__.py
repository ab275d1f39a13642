"""Users' tokens: verifying them, and which kinds of token are meant."""
