"""The edge: HAProxy as Ray Serve starts it, with our bounds. Nothing here imports Ray, except what installs it."""
