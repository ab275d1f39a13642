"""A plain model of the documented rules, and random sequences that the service must answer alike."""
