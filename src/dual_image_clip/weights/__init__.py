"""CLIP models and their weights."""
