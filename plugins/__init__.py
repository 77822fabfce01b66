"""The built-in plugins. They come in through the same entry point as anybody's."""
