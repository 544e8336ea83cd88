"""What everything else stands on: patches, jobs, recipes, cards, errors."""
