"""One detector family a file. Every module here is imported by :mod:`plugins.registry`."""
