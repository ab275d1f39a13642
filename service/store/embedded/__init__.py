"""The embedded Redis server: finding a program, running it, watching it."""
