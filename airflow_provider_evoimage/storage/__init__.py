"""Saves the images behind result links to the user's storage."""
