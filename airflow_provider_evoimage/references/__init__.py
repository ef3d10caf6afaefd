"""Reference images: from wherever they are stored to URLs that EvoLink can read."""
