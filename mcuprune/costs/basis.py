"""What limits are held against: which memory, which flash, in which runtime, on which board."""

from __future__ import annotations

from typing import Literal

from mcuprune.deploy.codesize import Runtime
from mcuprune.immutable import immutable

#: What ``sram`` may mean: the peak of the best schedule, the arena of TensorFlow Lite Micro, or, to see what exactness is
#: worth, the largest inputs and outputs of one operator.
SramModel = Literal["peak", "tflm", "max-in-out"]
#: What ``flash`` may mean: constants as the paper counts them, the file that is written, or that and the program's code.
FlashModel = Literal["paper", "file", "image"]


@immutable
class Basis:
    """What a limit of SRAM and of flash means, the runtime whose code is linked, and the board's name that time is counted on.

    Without a board nothing is known of time.
    """

    sram: SramModel = "peak"
    flash: FlashModel = "paper"
    runtime: Runtime = "tflm"
    board: str | None = None

    @classmethod
    def of(cls, words: Basis | SramModel) -> Basis:
        """A basis as it is; of a word for SRAM alone, the usual one with that."""
        return words if isinstance(words, Basis) else cls(sram=words)

    @property
    def models(self) -> dict[str, str]:
        """Resource -> the word for what it means."""
        return {"sram": self.sram, "flash": self.flash}
