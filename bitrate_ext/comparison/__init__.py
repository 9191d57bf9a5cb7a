"""Several codecs on one picture: one scale, signed differences, equal bytes."""
