"""The command about several codecs: ``bitrate-ext compare``."""
