"""From names, texts and files to a run that can start."""
