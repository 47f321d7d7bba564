"""Places outside of this machine's file system: `s3://` and `gs://` addresses, and what is done there.

`address.Address` is a path, so that whatever joins, names and shows paths takes one; asked to read, to list or to
remove, it asks `objects`, which is the only module that speaks to a store (through fsspec, imported at the first call).
What a store cannot do is made of what it can: a file that grows by lines (`lines`), a lock (`holding`). Anything that
would hand an address to the operating system ends with one sentence, as `os.fspath` of it is a UsageError.

A store promises this, and the rest rests on it: an object is put whole or not at all, and read as it was put last.
"""
