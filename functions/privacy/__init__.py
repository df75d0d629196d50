"""Privacy: what a person may ask about the data kept of them."""
