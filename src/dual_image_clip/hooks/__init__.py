"""What anomalib and Lightning need from this package around a run."""
