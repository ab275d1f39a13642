"""How values are written for people and programs: timestamps, validation messages."""
