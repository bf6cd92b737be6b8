"""Training of models with heads: classes, entities, and texts made of texts."""
