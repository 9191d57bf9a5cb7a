"""Images in, maps out."""
