"""Trains the checkpoint inside the package: ``python -m training``. Nothing here is imported by the package."""
