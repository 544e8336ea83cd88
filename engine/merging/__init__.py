"""Un-merge: methods that take merged adapters apart again, and those that cannot."""
