"""The manifest: the only configuration there is."""
