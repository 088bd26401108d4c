"""The archive, and features as they were at past moments."""
