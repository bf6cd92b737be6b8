"""Privacy mode: the kernel keeps this process, its threads and its children off the network."""
