"""Colours, figures, overlays."""
