"""The commands about estimators: ``bitrate-ext train-estimator`` and ``bitrate-ext estimate``."""
