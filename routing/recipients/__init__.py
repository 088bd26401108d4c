"""Recipients: their preferences, the rules about them, and how many notifications each had recently."""
