"""The documentation: its commands run, its tables are compared with the code, its links lead somewhere."""
