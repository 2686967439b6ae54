"""Where the command starts: ``python -m mcuprune`` is ``mcuprune``."""

import os
import sys


def main() -> int:
    """``cli.main``, interrupted or not from the first import on."""
    try:
        from mcuprune import cli
    except KeyboardInterrupt:
        sys.stderr.write("mcuprune: interrupted\n")
        code = 130
    else:
        code = cli.main()
    if code == 130:  # an interrupt inside an import leaves a mark, for which Python would exit by a signal
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
