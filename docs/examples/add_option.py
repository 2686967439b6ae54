"""An option: one field of a dataclass, with all that is known about it."""

from dataclasses import dataclass

from mcuprune import options
from mcuprune.options import option


@dataclass(frozen=True)
class Wishes:
    """A group of options; those of ``prune`` are the fields of its Request."""

    rounds: int = option(3, least=1, metavar="N", group="Training", help="How often to cut.")


if __name__ == "__main__":
    (rounds,) = options.of(Wishes)
    assert rounds.flag == "--rounds"  # of the command line, with its help and its range
    assert options.settings(Wishes, {"rounds": 5}, "mcuprune.toml") == {"rounds": 5}  # a key of the configuration
    assert options.run_of(Wishes()) == (("rounds", 3),)  # in the fingerprint of an interrupted run, and in the report
