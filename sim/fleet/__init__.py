"""Which accelerator serves a request, and what happens when one fails."""
