"""Labels of channels, groups, cuts, and what a channel is worth."""
