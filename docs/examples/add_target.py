"""An export target: how the arena is filled, as a table that a spreadsheet opens."""

from mcuprune import exporting
from mcuprune.deploy import tflite
from mcuprune.exporting import Files, Request
from mcuprune.graph.network import Network


def plan(net: Network, stem: str, request: Request) -> Files:
    """A line for each buffer of the program, which is what every other target is written from."""
    program = tflite.convert(net).program
    lines = ["tensor,offset,bytes"]
    lines += [f"{buffer.name},{buffer.offset},{buffer.bytes}" for buffer in program.arena(offline=True).buffers]
    return {f"{stem}.csv": ("\n".join(lines) + "\n").encode()}


# One row, by the suffix: mcuprune export MODEL.onnx -o OUT.csv, and mcuprune.export(net, "out.csv").
exporting.EXPORTS[".csv"] = plan

if __name__ == "__main__":
    from mcuprune.cli import main

    assert main(["export", "models/dscnn_digits.onnx", "--data", "digits", "-o", "plan.csv"]) == 0
    with open("plan.csv") as file:
        assert file.readline() == "tensor,offset,bytes\n"
