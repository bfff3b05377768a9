# pragma version 0.4.3
"""
@notice Whatever the executor calls: it keeps the calldata for a look, hands over what was arranged, calls back, and
        takes its due. Without arguments, so that the address of a pool follows from its code.
"""


interface Erc20:
    def transfer(to: address, amount: uint256) -> bool: nonpayable
    def transferFrom(owner: address, to: address, amount: uint256) -> bool: nonpayable


struct Deal:
    take: address  # what is handed over
    sent: uint256
    give: address  # what is taken by an allowance
    due: uint256
    callback: Bytes[512]  # empty: no callback
    times: uint256  # how often it is called
    reason: Bytes[512]  # not empty: revert with it


NATIVE: constant(address) = 0xEeeeeEeeeEeEeeEeEeEeeEEEeeeeEeeeeeeeEEeE

deal: Deal
called: public(Bytes[1024])
paid: public(uint256)


@external
def arrange(deal: Deal):
    self.deal = deal


@external
@payable
def __default__():
    if len(msg.data) == 0:
        return
    # the contract that answers with what it is called with, since msg.data cannot be copied otherwise
    self.called = raw_call(0x0000000000000000000000000000000000000004, msg.data, max_outsize=1024, is_static_call=True)
    self.paid = msg.value
    deal: Deal = self.deal
    if len(deal.reason) != 0:
        raw_revert(deal.reason)
    if deal.take == NATIVE:
        send(msg.sender, deal.sent)
    elif deal.sent != 0:
        extcall Erc20(deal.take).transfer(msg.sender, deal.sent)
    if len(deal.callback) != 0:
        for i: uint256 in range(deal.times, bound=3):
            raw_call(msg.sender, deal.callback)
    if deal.due != 0:
        extcall Erc20(deal.give).transferFrom(msg.sender, self, deal.due)
