"""Text forms of values: timestamps, validation messages."""
