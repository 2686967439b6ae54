"""Data of the user's: what a set of examples is, how each format is read, how examples reach a network."""
