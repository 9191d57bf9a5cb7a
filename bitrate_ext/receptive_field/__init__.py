"""The projection that follows a decoder: its kernel, and how that is measured."""
