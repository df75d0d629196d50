"""Files that people and organizations put in, to be searched and cited."""
