"""Which rule holds for a proxied request: how its path is read, and the rules in a tree."""
