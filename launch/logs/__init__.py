"""Reading the logs of all parts as one."""
