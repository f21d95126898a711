"""The detector without randomness and autograd, as a file that other programs run."""
