"""What a range coder spends on each symbol. Knows no maps."""
