"""What a visitor sees: one route a family, one panel a method."""
