"""A board of your own, as a budget for ``--board``."""

from mcuprune.cli import main
from mcuprune.deploy.boards import BOARDS, Board

KB = 1024
# One row. block: the largest piece of SRAM that one arena can lie in; source: where you read the numbers.
BOARDS["my-board"] = Board(
    name="my-board",
    chip="STM32F401CE",
    core="Cortex-M4",
    mhz=84,
    sram=96 * KB,
    block=96 * KB,
    flash=512 * KB,
    source="data sheet",
    verified=True,
)

if __name__ == "__main__":
    assert main(["boards"]) == 0  # lists it
    assert main(["check", "models/resnet8_digits.onnx", "--board", "my-board"]) == 0
