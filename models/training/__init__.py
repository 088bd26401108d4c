"""From events to a measured model."""
