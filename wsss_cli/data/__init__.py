"""The toolkit's own files <-> arrays."""
