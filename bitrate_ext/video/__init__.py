"""Videos in, videos of their bits out."""
