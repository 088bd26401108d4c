"""Long work between the archive and the online state."""
