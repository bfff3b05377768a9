"""An async daemon that liquidates unhealthy positions."""
