"""Submits a request once."""
