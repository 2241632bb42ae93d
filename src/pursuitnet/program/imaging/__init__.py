"""Images to train on and to apply networks to: files, folders, metrics."""
