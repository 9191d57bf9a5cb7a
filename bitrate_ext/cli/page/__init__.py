"""The command for pages."""
