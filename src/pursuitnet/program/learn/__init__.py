"""``pursuitnet learn``: a dictionary learned from image files, with its history and a page of pictures."""
