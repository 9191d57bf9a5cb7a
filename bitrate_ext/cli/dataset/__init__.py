"""The command of data sets."""
