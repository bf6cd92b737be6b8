"""The terminal chat. Stands on runtimes and knows nothing of converters or devices."""

import os

# Textual draws at most so many frames a second, and reads the figure when it is imported. A typed
# key waits for its frame: at 120 it is seen 8 ms sooner than at the usual 60.
os.environ.setdefault("TEXTUAL_FPS", "120")
