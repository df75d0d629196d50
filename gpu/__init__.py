"""Models on GPUs: which there are, and what serves them. Imports nothing of functions/."""
