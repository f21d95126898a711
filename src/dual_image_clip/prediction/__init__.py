"""A folder in, an answer out: the ranked list and the report that a prediction writes beside its heatmaps."""
