"""HTTP once for all applications."""
