"""Maps of models: one image, frame after frame, estimated or coded."""
