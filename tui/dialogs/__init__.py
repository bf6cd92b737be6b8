"""The chat's dialogs: one modal screen a file, each dismissed with a result or None."""
