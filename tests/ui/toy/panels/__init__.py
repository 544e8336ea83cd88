"""The toy panels."""
