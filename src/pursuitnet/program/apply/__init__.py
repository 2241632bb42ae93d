"""``pursuitnet apply``: a trained network on image files, of any size, in tiles that equal the whole."""
