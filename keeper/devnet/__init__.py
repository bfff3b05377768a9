"""A local chain with the genuine protocol contracts on it: `keeper demo` and the tests stand on it."""
