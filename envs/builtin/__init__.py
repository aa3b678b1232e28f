"""The built-in environments, one folder per family."""
