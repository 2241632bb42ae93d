"""``pursuitnet learn``: learn a dictionary from image files, with its history and a page of figures."""
