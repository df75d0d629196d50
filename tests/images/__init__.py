"""Tests of images by outside providers."""
