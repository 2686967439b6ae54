"""The ONNX file as an immutable graph, and what a file must be to be read."""
