"""Waiting for generations."""
