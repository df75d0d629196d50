"""Outside providers of models: where each is, how a key is shown to it, what its refusals mean."""
