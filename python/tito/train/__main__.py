"""`python -m tito.train RECIPE ...`: what torchrun launches on every rank."""

import sys

from tito.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
