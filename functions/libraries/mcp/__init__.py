"""The tools of libraries for models, by the Model Context Protocol."""
