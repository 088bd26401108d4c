"""What comes in: admission, classification, formats."""
