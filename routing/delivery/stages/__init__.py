"""The stages of the delivery pipeline, one a file."""
