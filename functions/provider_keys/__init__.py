"""Keys that customers bring for providers of models: the vault that keeps them."""
