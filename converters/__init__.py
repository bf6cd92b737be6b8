"""Checkpoint to artifact: read, quantise, export. Never imports runtimes or tui."""
