"""The bits of pictures as cells: where they lie, what of them falls on which pixels, and every bit of a file."""
