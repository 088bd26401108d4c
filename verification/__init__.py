"""Proof that nothing is lost: break what the platform stands on, and account for every receipt."""
