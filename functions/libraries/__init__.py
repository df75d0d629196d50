"""Documentation of libraries: read, cut into chunks, and screened before anybody searches it."""
