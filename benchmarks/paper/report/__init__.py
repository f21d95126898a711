"""Turns rows of results into tables, figures and heatmap sheets beside the paper's figures."""
