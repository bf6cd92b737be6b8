"""Privacy on the user's own machine: prove the lock, list what is stored, remove it."""
