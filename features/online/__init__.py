"""Reading features online, while a caller waits."""
