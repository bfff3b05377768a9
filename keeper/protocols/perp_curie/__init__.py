"""Perpetual Protocol v2 (Curie): cross-margin accounts with positions in several perpetual markets.

Their words, in ours: the *ClearingHouse* is the market's root, the *Vault* holds the margin; a *base token* is a
virtual token that stands for one perpetual market, the *quote token* for virtual US dollars; *taker position size*
(positive: long) and *open notional* (what was paid for it, negative for a long) make a position; *owed realized PnL* is
profit not yet moved into the vault; *account value* is the margin, and *margin requirement* is what it must not fall
below; *mmRatio* and *imRatio* are the maintenance and initial margin ratios; *twPremiumGrowth* is the funding growth;
*orders* are ranges of liquidity in the pool; *excess orders* are those of an account that may be liquidated;
*liquidation fee* is the penalty. Ratios are in millionths, prices and values have 18 decimals.

An account is liquidatable while its account value, in whole units of the settlement token, is below the requirement.
The liquidator pays nothing: it takes the position over at the mark price with half of the penalty as a discount (all of
it where the account is under water), and must have initial margin for it in the vault beforehand. That free margin is
the inventory (`payments`, by the vault's address); `repay_amount` is what a take-over locks of it. That margin stays the
liquidator's, so it costs nothing (`repay_base`), and what is seized is the fee, in the settlement token.
What was taken over stays open: closing it is left to the operator, and so is the risk of holding it.
Orders have to be cancelled first, in each market of their own: those are `PREPARE` steps.

What is not mirrored. The mark price is a median with two time-weighted averages, so it moves with every second; the
price at the head stands for the block of landing, and the simulation decides. Accounts with orders, whose value depends
on the pool, are valued by the contract itself at every head. `Vault.liquidateCollateral` is not done.
"""
