"""The paper's method: pure functions on tensors, and small modules."""
