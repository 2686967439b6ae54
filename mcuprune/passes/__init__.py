"""A network made fit for pruning; each change is run against what it changes."""
