"""Morpho Blue: isolated pairs of one collateral and one debt in a single contract, and pre-liquidation contracts.

Their words, in ours: a *market* there is a *pair* here, named by the hash of its five parameters, while our market is
the contract that holds all pairs (`Morpho`, the singleton); *LLTV* is the pair's liquidation threshold; *LIF*, the
liquidation incentive factor, is 1 plus the liquidation bonus and follows from the threshold; *shares* of the total debt
are a debt's scaled amount, and *assets* is the amount that they stand for, rounded with one virtual asset and a million
virtual shares; *IRM* is the interest rate model; *bad debt* is what is left of a debt whose collateral is gone, and the
pair's suppliers bear it in the same call. The oracle's price is what one unit of collateral is worth in units of the
loan token, times 10**36.

An account's pair is liquidatable while its debt, rounded up, is above its collateral's value times the threshold,
rounded down. There is neither a close factor nor a dust rule. The collateral is sent first, then the liquidator is
called back if it wants to be, then the loan token is pulled.

A *pre-liquidation* contract, made by a factory for one pair, is a second trigger of the same positions: below the
pair's threshold but above one of its own (*pre-LLTV*) it lets anybody repay a part (*LCF*, its close factor) at a bonus
of its own, both growing with the loan-to-value; only for borrowers who authorised it.

Anybody can make a pair, of tokens and with an oracle of his own, and be lender and borrower in it; anybody can make a
pre-liquidation contract with an oracle of his own and authorise it. So what is seized counts only where the keeper's own
price source knows the token, or the operator has named the pair, and then at the lower of the two prices; and a
pre-liquidation is planned only by the oracle of its pair.
"""
