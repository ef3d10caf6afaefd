"""Result links into files in the user's storage."""
