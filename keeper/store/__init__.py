"""The durable journal and the discovered accounts."""
