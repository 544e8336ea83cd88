"""Measures of results, one small file a kind."""
