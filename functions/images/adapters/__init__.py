"""One adapter for each provider of images."""
