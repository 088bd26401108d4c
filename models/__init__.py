"""Churn and insights: no Ray, no HTTP. Time is an argument; the registry touches files, `observed` alone Redis."""
