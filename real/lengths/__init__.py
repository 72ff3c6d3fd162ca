"""Asks the model how long its answers will be, and teaches it to predict that."""
