"""Compound v2 and its forks Moonwell and Venus core: an account with many collaterals and many debts.

Their words, in ours: the *comptroller* is the market's root, each *cToken* (mToken, vToken) one listed token and at the
same time the receipt for a deposit in it; *exchange rate* times cTokens is the deposit with interest; a debt is its
*principal* times the *borrow index*, divided by the index at the principal's time; *collateral factor* (in Venus the
*liquidation threshold*) is the weight of collateral; *liquidation incentive* is 1 plus the bonus; *shortfall* is debt
above weighted collateral; *seize tokens* is the collateral taken, as receipts; *pool* is an efficiency mode of Venus.
Amounts called *mantissa* there are wads. Prices have 36 digits less the token's, so that price times amount is in
US dollars with 36 decimals.

An account is liquidatable while it has a shortfall. Only the two cTokens that a liquidation touches are brought up to
date before the test, all others count as they are stored: whether it is legal is a question of the pair. The liquidator
pays first (or sends native currency along) and receives cTokens, which are then redeemed for what the cToken has in
cash. In Venus the Liquidator contract stands between, keeps a share of the bonus for the treasury, and lets debt in
VAI, the protocol's own dollar, be liquidated first. Dialects are data in `contracts.PROFILES`.

A cToken does not tell a debt's principal. What was read as the debt at one index is `floor(principal * index / k)`, so
at a later index it is known to within a unit or two: the rules take the lower end, which is exact when the debt was read
in the block that changed it, and never more than the contract allows to be repaid.

cTokens that a debtor holds and has not entered weigh nothing in the test, and can be seized in Compound and Moonwell.

Left out: VAI where Venus has no Liquidator contract, Moonwell's early reveal of prices.
"""
