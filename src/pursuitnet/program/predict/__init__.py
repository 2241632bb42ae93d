"""Prediction for image files: classes, a table of them, and a page that explains them. Loads no PyTorch."""
