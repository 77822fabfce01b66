"""The kit for plugin authors: contract tests, one class an extension point."""
