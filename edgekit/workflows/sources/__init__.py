"""Where a model can come from, one module each: an index, the hub, a folder, a GGUF file."""
