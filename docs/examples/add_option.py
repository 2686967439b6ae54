"""An option: one field of a dataclass, with all that is known about it."""

from contextlib import suppress

from mcuprune import options
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.options import option


@immutable
class Wishes:
    """A group of options; those of ``prune`` are the fields of its Request."""

    rounds: int = option(3, least=1, metavar="N", group="Training", help="How often to cut.")


if __name__ == "__main__":
    (rounds,) = options.of(Wishes)
    assert rounds.flag == "--rounds"  # of the command line, with this help and range
    assert options.settings(Wishes, {"rounds": 5}, "mcuprune.toml") == {"rounds": 5}  # a key of the configuration
    with suppress(UsageError):  # "rounds = 0 is not a whole number from 1"
        options.settings(Wishes, {"rounds": 0}, "mcuprune.toml")
        raise SystemExit("0 is out of the range of the option")
