"""Prediction for image files: classes, a table of them, and a page that takes a decision apart. Loads no PyTorch."""
