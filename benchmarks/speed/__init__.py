"""What the detector costs: ``python -m benchmarks.speed``."""
