"""What an attacker would try; a run ends with a table of all attempts."""
