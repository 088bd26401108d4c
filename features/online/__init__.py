"""Reading features while a caller waits."""
