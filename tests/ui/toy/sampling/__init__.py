"""The toy family."""
