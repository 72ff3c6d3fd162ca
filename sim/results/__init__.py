"""What a run wrote down, and what is computed from it."""
