"""Several networks for one task: made by one training or by several, and switched while they answer."""
