"""Pruning: a smaller checkpoint from a checkpoint. One module for each kind of part removed."""
