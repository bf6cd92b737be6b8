"""edgekit: a trained language model, made small, proved and installed where there is no network."""
