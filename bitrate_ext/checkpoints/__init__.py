"""Files of weights, read as data alone: what is refused, what is passed over, where the weights are."""
