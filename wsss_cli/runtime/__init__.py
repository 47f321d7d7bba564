"""How work is run, never what it is."""
