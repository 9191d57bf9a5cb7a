"""Bits of one very image, followed to the pixels that they paint or that cause them."""
