"""EvoLink's image API as plain data: requests, answers, errors."""
