"""tune: from a budget to the recipe that loses least within it, proved by measuring."""
