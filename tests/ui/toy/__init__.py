"""A small catalogue for the tests of the frame: one numpy method in the real layout."""
