"""Asking for an image, once."""
