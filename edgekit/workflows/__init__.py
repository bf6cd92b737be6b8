"""What needs two rooms at once: bringing models in, checking, measuring, the demo."""
