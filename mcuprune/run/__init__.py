"""A written file in the runtimes that are there, compared with onnxruntime."""
