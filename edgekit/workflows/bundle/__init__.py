"""bundle: one folder with all that a device without a network needs, signed."""
