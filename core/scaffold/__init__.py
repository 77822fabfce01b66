"""What `platform new-plugin` writes. Imports no torch."""
