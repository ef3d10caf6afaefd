"""What EvoLink's pages document about models and sizes, typed in a second time."""
