"""What became of each notification, and the dead letters."""
