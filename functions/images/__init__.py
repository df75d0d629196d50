"""Images by outside providers: what is asked, what of it a model can do, and who is asked how."""
