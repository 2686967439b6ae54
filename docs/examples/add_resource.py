"""A resource: the bytes of activations that one inference writes, which cost energy on a chip with slow memory."""

from collections.abc import Mapping
from typing import Any

from mcuprune.costs import resources


def written(terms: resources.Terms) -> Mapping[str, Any]:
    """What each node writes. The sizes are integers for a report, polynomials in the widths of groups for a budget."""
    shares = {}
    for node in terms.network.nodes:
        size: Any = 1
        for axis in range(len(terms.network.shapes[node.outputs[0]])):
            size = size * terms.dim(node.outputs[0], axis)
        shares[node.name] = size
    return shares


# One object. Flag, key of the configuration, columns, JSON and the gradient that pruning follows come from it.
resources.RESOURCES["written"] = resources.Additive(
    name="written", unit="bytes", title="written", meaning="bytes of activations that one inference writes", shares=written
)

if __name__ == "__main__":
    import json

    from mcuprune.cli import main  # after the row: flags are made when this is imported

    assert main(["check", "models/resnet8_digits.onnx", "--written", "1KB"]) == 1
    half = "prune models/resnet8_digits.onnx --written 50% --no-train --float -o half.onnx"
    assert main(half.split()) == 0
    assert main(["profile", "half.onnx", "--format", "json=half.json"]) == 0
    with open("half.json") as file:
        assert json.load(file)["models"][0]["total"]["written"] > 0
