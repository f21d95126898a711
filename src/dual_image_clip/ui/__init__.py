"""The page of ``dual-image-clip ui``: drop images, see them ranked, with heatmaps."""
