"""Helpers that all parts use: suggestions for misspelled names, paths, settings and records, in-place work, memory."""
