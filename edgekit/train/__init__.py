"""Training: distillation of a pruned checkpoint from the original. Only the roof imports it."""
