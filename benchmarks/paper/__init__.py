"""The paper's tables and figures, beside peers on the same weights and images: ``python -m benchmarks.paper``."""
