"""Helpers that all parts use: suggestions for misspelled names, paths, files of settings and records."""
