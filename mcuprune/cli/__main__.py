"""``python -m mcuprune.cli`` is ``python -m mcuprune``."""

import sys

from mcuprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
