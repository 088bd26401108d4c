"""Files of any provenance become activities."""
