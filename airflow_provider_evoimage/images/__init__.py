"""What a picture file is: its type by its bytes, its pixels, whether it is complete."""
