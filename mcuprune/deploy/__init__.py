"""From a network to what runs on the chip."""
