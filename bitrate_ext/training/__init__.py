"""Losses of rates: what a model is trained on."""
