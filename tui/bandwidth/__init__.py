"""The fewest bytes that turn one picture on a terminal into another. Knows no chat and no app."""
