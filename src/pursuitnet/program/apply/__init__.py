"""``pursuitnet apply``: apply a trained network to image files of any size, in tiles, with the result of the whole."""
