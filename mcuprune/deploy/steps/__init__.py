"""A program as calls of the C kernels in ``deploy/ckernels``."""
