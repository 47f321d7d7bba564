"""`python -m wsss_cli` is the command `wsss`."""

import sys

from wsss_cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
