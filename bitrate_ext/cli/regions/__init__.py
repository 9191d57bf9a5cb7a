"""Regions of photographs in ``bitrate-ext map``: options, masks, tables."""
