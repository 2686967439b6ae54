"""Readers, one file each: a path, or what a function returns -> ``Raw``. ``table`` lists them."""
