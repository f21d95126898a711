"""What each step past the paper is worth: ``python -m benchmarks.steps``."""
