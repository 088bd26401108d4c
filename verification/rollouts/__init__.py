"""Proof that bad models are rolled back and good ones are not: `python -m verification.rollouts`."""
