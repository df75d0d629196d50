"""Others' files are read in processes of their own, which have seconds, memory, and no secrets."""
