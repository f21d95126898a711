"""What measures the package; nothing here is imported by it."""
