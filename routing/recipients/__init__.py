"""Who is told, how they want it, and how much."""
