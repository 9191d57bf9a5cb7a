"""The command ``bitrate-ext map``: its options, pictures whole and in tiles."""
