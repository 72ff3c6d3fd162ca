"""What is predicted of an answer's length, and how far off predictions are."""
