"""`python -m tito`: the command line."""

import sys

from tito.cli import main

if __name__ == "__main__":
    sys.exit(main())
