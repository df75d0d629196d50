"""Each query of sql/checks finds what it is there to find."""
