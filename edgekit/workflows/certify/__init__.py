"""certify: where between a checkpoint and its answers a conversion broke, stage by stage."""
