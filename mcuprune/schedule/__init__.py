"""The order of least peak memory, with its proof."""
