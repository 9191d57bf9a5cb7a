"""The page: the bits of pictures in one HTML file, to look into with any browser, offline."""
