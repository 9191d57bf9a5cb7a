"""The command ``bitrate-ext dataset summary``."""
