"""A network rewritten in bands of rows: less memory, the same integers."""
