"""Prices that come from outside of a market: what its own contracts do not say."""
