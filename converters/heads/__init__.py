"""Models with heads: they understand a text or rewrite it, and chat with nobody."""
