"""Finds saved images that were made for the same request, so that nothing is submitted."""
