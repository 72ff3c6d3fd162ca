"""Whether policies change the answers."""
