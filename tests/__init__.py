"""The tests, a folder for each kind: CONTRIBUTING.md lists them. What several kinds share is here."""
