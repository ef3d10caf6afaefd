"""Keeps what the account made: lists finished generations, leaves out what is saved, saves the rest."""
