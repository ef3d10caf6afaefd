"""Triggers: wait in the triggerer, hold no worker."""
