"""Maps of images of any size in bounded memory."""
