"""Where tokens are swapped: a family of pools, or a service, each quoted as the executor would be served by it."""
