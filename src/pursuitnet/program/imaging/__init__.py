"""Images to learn from and to apply networks to: files, folders, measures."""
