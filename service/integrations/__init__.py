"""The same admission inside an application, without a proxy."""
