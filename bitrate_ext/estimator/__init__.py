"""Bits per pixel foretold from the picture alone, by a small network that is trained on a codec's own maps."""
