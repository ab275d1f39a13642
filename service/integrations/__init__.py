"""The same admission inside applications of other frameworks."""
