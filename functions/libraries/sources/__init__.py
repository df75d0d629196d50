"""Where documentation comes from: archives, folders, package registries, sites, repositories."""
