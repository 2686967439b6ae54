"""An operator that the table does not have: Sinh, computed element by element."""

from onnx import TensorProto, helper

from mcuprune.costs import resources
from mcuprune.graph import network
from mcuprune.operators import table as ops

# One line of the table. Elementwise ties the channels that meet and writes in place; Movement, Mixer and Barrier are the other
# families. An operator that is none of them gets a class of its own with the rules that differ from the defaults of Op.
ops.OPS["Sinh"] = ops.Elementwise()


def model() -> bytes:
    """Relu, then Sinh, of an input of 8 channels."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 4, 4]) for name in "xy")
    nodes = [helper.make_node("Relu", ["x"], ["r"], "relu"), helper.make_node("Sinh", ["r"], ["y"], "sinh")]
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


if __name__ == "__main__":
    with open("sinh.onnx", "wb") as file:
        file.write(model())
    net = network.load("sinh.onnx", accept=ops.accept("sinh.onnx"))
    profile = resources.profile(net)
    assert profile.total["sram"] == 8 * 4 * 4, "both are written in place, so one tensor is alive"
    assert "| Sinh |" in ops.table(), "docs/operators.md is drawn from the table"
