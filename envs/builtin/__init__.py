"""The built-in environments, a folder per family."""
