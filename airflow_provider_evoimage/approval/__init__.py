"""A person chooses among saved images, and approves them."""
