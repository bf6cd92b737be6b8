"""The terminal chat. Stands on runtimes and knows nothing of converters or devices."""
