"""Artifact to text: one protocol, two engines, each in a worker process."""
