"""Which lane a notification rides: the operator's rules on the command line."""
