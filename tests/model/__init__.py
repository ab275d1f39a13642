"""A plain model of the contract, and random sequences held to it."""
