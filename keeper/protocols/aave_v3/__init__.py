"""Aave v3 and its forks: an account with many collaterals and many debts.

Their words, in ours: *reserve* is a listed token with its indexes and risk parameters; *aToken* and *debt token*
balances are a holding's scaled amount, without interest; *scaled* times the *liquidity index* (collateral) or the
*variable borrow index* (debt) is the amount with interest; *normalized income* and *normalized debt* are those indexes
at a time; *eMode category* is a set of collaterals with their own threshold and bonus; *user configuration* is the
bitmap of what an account borrows and has flagged as collateral; *debtToCover* is the repay limit; *revision* tells the
generation of the contracts, and thereby how they round.

An account is liquidatable while its health factor is below 1. The liquidator pays first, and receives the underlying
token. Core 3.0 to 3.3 and 3.4 to 3.7 differ in interest, rounding, close factor and dust rule; all of it is data in
`rules.PROFILES`. Stable-rate debt (3.0, 3.1) is supported. GHO's discounted debt on Ethereum before 3.4 is not: there
an account's debt is smaller than its scaled balance says, and the daemon's parity check would quarantine it.
"""
