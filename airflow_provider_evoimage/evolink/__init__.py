"""EvoLink's image API as plain data: what can be asked, what is answered, what each error means."""
