"""mcuprune makes a convolutional network in an ONNX file fit a microcontroller."""

__version__ = "0.1.0"
