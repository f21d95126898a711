"""What the checkpoint inside the package can do: ``python -m benchmarks.checkpoint``."""
