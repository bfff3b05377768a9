# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# pragma nonreentrancy off
"""
@title Executor
@license MIT
@notice Runs one program of typed steps in one transaction: borrow, liquidate, sell, repay; what is left goes to the
        owner, or nothing has happened.
@dev
  Who may do what: the owner (cold) authorises targets and callers, sweeps, unpauses; a caller (hot) runs programs and
  pauses. A program cannot name who is paid: outputs go to the owner, and only authorised contracts are called. What a
  program may lose is what it holds itself, so nothing rests here between programs.

  The program lies in transient storage while it runs. A door (a loan, or a swap or liquidation that is paid last) is a
  call to a contract that calls back; the steps behind the door run inside that callback, from transient storage. So
  nothing that a lender hands over is ever run: a callback only says which door it comes through, and is compared with
  the one record of the door that is open: who may call, for which step, and for how much at most. The record is erased
  as it is used, and a door that was not used reverts.

  A step may be optional (gas is not zero): it then runs in a call of its own with so much gas, and is undone as a whole
  where it fails. A door cannot be optional.

  Everything outside is called with a bound on what is copied back, tokens with a bound on their gas too.
  No allowance outlives the step that needs it.

  A step's data, in words of 32 bytes:
    FLASH_UNISWAP_V3      the pool's other token, its fee     target is the factory
    SWAP_FIRST_UNISWAP_V3, SWAP_UNISWAP_V3   the fee          target is the factory
    SWAP_UNISWAP_V2       the fee in hundredths of a percent  target is the factory
    SWAP_CURVE            i, j, whether they are uint256      SWAP_BALANCER     the pool's id; target is the vault
    SWAP_ROUTER           the place of its payload            LIQUIDATE_AAVE, LIQUIDATE_COMPOUND   the borrower
    LIQUIDATE_VENUS       the vToken borrowed, the borrower; target is the Liquidator
    LIQUIDATE_MORPHO      the market's five parameters, the borrower, seizedAssets, repaidShares
    PRE_LIQUIDATE_MORPHO  the borrower, seizedAssets, repaidShares

  Reasons, each a string that begins with "executor: ":
    caller      neither a caller nor the owner          owner        not the owner
    paused      paused                                  locked       a program is running
    late        after the last block or the deadline    permit       this target is not authorised for this kind
    selector    the router's function is not            payload      a router step names no payload
    kind        no such step                            optional     a door cannot be optional
    nested      too many doors inside each other        unopened     a door's contract did not call back
    stranger    a callback from no open door            door         a callback through another door, or with its terms changed
    dear        a callback asks for more than allowed   short        less was handed over than was asked for
    least       less came out than the step or the output demands
    token       a token said false, or has no code      unreadable   a balance or an allowance cannot be read
    allowance   an allowance cannot be taken back       idle         native currency outside a program
    refused     the owner does not take native currency
    target      nothing with code, or this contract     forbidden    a token's function is no router's
    pending     not the pending owner                   account      the zero address
  Errors: ReturnCode(uint256): a Compound-like market returned an error's number instead of reverting.
  Whatever a called contract reverts with is passed on, up to 256 bytes of it.
"""


struct Step:
    kind: uint256
    target: address  # what is called; of Uniswap's pools, the factory that they must come from
    give: address  # a token, or native currency by its pseudo-address
    take: address
    amount: uint256  # of what is given or borrowed, or received by SWAP_FIRST; of a Morpho liquidation, the most given
    limit: uint256  # the least of `take` that has to come; a loan's highest fee; the most that SWAP_FIRST gives
    gas: uint256  # not zero: the step may fail, within so much
    data: Bytes[288]  # see above


struct Output:
    token: address
    least: uint256


struct Permit:
    target: address
    kinds: uint256
    init_code_hash: bytes32


struct Door:
    sender: address  # who has to call back
    index: uint256  # the step that opened it
    most: uint256  # what may be paid for it


event Executed:
    caller: indexed(address)


event Profit:
    token: indexed(address)
    amount: uint256


event StepFailed:
    index: uint256
    reason: Bytes[256]


event Authorized:
    target: indexed(address)
    kinds: uint256
    init_code_hash: bytes32


event SelectorsSet:
    router: indexed(address)
    selectors: DynArray[bytes4, 16]
    allowed: bool


event CallerSet:
    account: indexed(address)
    allowed: bool


event Paused:
    account: indexed(address)


event Unpaused:
    account: indexed(address)


event Swept:
    token: indexed(address)
    amount: uint256


event OwnershipTransferStarted:
    previous_owner: indexed(address)
    new_owner: indexed(address)


event OwnershipTransferred:
    previous_owner: indexed(address)
    new_owner: indexed(address)


# Doors
PULL: constant(uint256) = 1
FLASH_AAVE: constant(uint256) = 2
FLASH_MORPHO: constant(uint256) = 3
FLASH_UNISWAP_V3: constant(uint256) = 4
FLASH_BALANCER: constant(uint256) = 5
FLASH_ERC3156: constant(uint256) = 6
SWAP_FIRST_UNISWAP_V3: constant(uint256) = 7
LIQUIDATE_MORPHO: constant(uint256) = 8
PRE_LIQUIDATE_MORPHO: constant(uint256) = 9
LAST_DOOR: constant(uint256) = 15
# Liquidations that are paid first, and what they bring
LIQUIDATE_AAVE: constant(uint256) = 16
LIQUIDATE_COMPOUND: constant(uint256) = 17
LIQUIDATE_VENUS: constant(uint256) = 18
REDEEM_COMPOUND: constant(uint256) = 19
# Swaps
SWAP_UNISWAP_V3: constant(uint256) = 32
SWAP_UNISWAP_V2: constant(uint256) = 33
SWAP_CURVE: constant(uint256) = 34
SWAP_BALANCER: constant(uint256) = 35
SWAP_ROUTER: constant(uint256) = 36
# Wrappers
REDEEM_ERC4626: constant(uint256) = 48
UNWRAP_WSTETH: constant(uint256) = 49
WRAP_NATIVE: constant(uint256) = 50
UNWRAP_NATIVE: constant(uint256) = 51

MAX_STEPS: constant(uint256) = 24
MAX_DOORS: constant(uint256) = 4
MAX_PAYLOAD: constant(uint256) = 8192
MAX_REASON: constant(uint256) = 256  # of what a called contract returns or reverts with
MAX_CALL: constant(uint256) = 452  # the longest call that is built here: Balancer's swap
TOKEN_GAS: constant(uint256) = 1_000_000  # for one call to a token
ALL: constant(uint256) = max_value(uint256)
NATIVE: constant(address) = 0xEeeeeEeeeEeEeeEeEeEeeEEEeeeeEeeeeeeeEEeE
MIN_SQRT_PRICE: constant(uint256) = 4295128740  # one inside what a Uniswap v3 pool takes
MAX_SQRT_PRICE: constant(uint256) = 1461446703485210103287273052203988822378723970341
ERC3156_DONE: constant(bytes32) = keccak256("ERC3156FlashBorrower.onFlashLoan")

owner: public(address)
pending_owner: public(address)
payee: address  # whom outputs go to: the owner, and nobody while paused; one slot tells a program both
is_caller: public(HashMap[address, bool])
permits: public(HashMap[address, uint256])
init_code_hashes: public(HashMap[address, bytes32])
selectors: public(HashMap[address, HashMap[bytes4, bool]])

# Only while a program runs
is_running: transient(bool)
caller: transient(address)
door: transient(Door)  # the one that was opened and not yet come through
doors: transient(uint256)
steps: transient(DynArray[Step, MAX_STEPS])
payloads: transient(DynArray[Bytes[MAX_PAYLOAD], 2])


@deploy
def __init__(owner: address, callers: DynArray[address, 8]):
    assert owner != empty(address), "executor: account"
    self.owner = owner
    self.payee = owner
    log OwnershipTransferred(previous_owner=empty(address), new_owner=owner)
    for account: address in callers:
        self._set_caller(account, True)


@external
@payable
def __default__():
    """
    @notice Takes native currency from what a program unwraps, redeems or swaps.
    @dev Has to do with the 2,300 gas of a plain transfer.
    """
    assert self.is_running, "executor: idle"


# Programs


@external
def execute(
    steps: DynArray[Step, MAX_STEPS],
    outputs: DynArray[Output, 8],
    last_block: uint256,
    deadline: uint256,
    payloads: DynArray[Bytes[MAX_PAYLOAD], 2],
):
    """
    @notice Run a program, or revert.
    @param steps What to do, in order. The steps behind a door run inside it.
    @param outputs What has to come out; the whole balance of each goes to the owner.
    @param last_block The last block in which it may run.
    @param deadline The last second at which it may run.
    @param payloads What routers are called with; a router's step names one by its place.
    """
    # No local variables, not even a loop's: they would lie behind 30 kB of arguments in memory, and that is paid for.
    assert not self.is_running, "executor: locked"
    assert self.is_caller[msg.sender] or msg.sender == self.owner, "executor: caller"
    assert self.payee != empty(address), "executor: paused"
    assert block.number <= last_block and block.timestamp <= deadline, "executor: late"
    self.is_running = True
    self.caller = msg.sender
    self.doors = 0
    self.steps = steps
    self.payloads = payloads
    self._settle(outputs)
    self.is_running = False
    log Executed(caller=msg.sender)


@external
def perform(index: uint256):
    """
    @notice Run one step in a call of its own; for this contract alone.
    @dev A step that may fail is undone as a whole by its call's failure, its allowance with it. A router's is called
         from here too, so that only this call pays for the memory of the payload.
    """
    assert msg.sender == self, "executor: stranger"
    step: Step = self.steps[index]
    if step.kind == SWAP_ROUTER:
        self._route(step)
    else:
        self._perform(index, step)


@internal
def _settle(outputs: DynArray[Output, 8]):
    """
    @dev Runs the program between two looks at the outputs' balances.
    """
    payee: address = self.payee  # before anything is called: a pause in the middle must not burn what comes out
    held: uint256[8] = empty(uint256[8])
    for i: uint256 in range(len(outputs), bound=8):
        if outputs[i].least != 0:
            held[i] = self._balance(outputs[i].token)
    self._run(0)
    for i: uint256 in range(len(outputs), bound=8):
        token: address = outputs[i].token
        balance: uint256 = self._balance(token)
        # Where nothing is demanded the output is only swept: what was there before does not count.
        assert outputs[i].least == 0 or balance >= held[i] + outputs[i].least, "executor: least"
        if balance != 0:  # some tokens refuse to move nothing
            self._send(token, payee, balance)
            log Profit(token=token, amount=balance)


@internal
def _run(first: uint256):
    """
    @dev Runs the steps from the first on: all of them, or up to and including a door, which runs those behind it.
    """
    pulled: uint256 = 0  # one bit for each step that took the caller's tokens
    for index: uint256 in range(first, len(self.steps), bound=MAX_STEPS):
        step: Step = self.steps[index]
        if step.kind == PULL:
            assert step.gas == 0, "executor: optional"
            self._pull(step.take, step.amount)
            pulled |= 1 << index
            continue
        assert self.permits[step.target] & (1 << step.kind) != 0, "executor: permit"
        if step.kind <= LAST_DOOR:
            assert step.gas == 0, "executor: optional"
            self._open(index, step)
            break
        if step.gas == 0 and step.kind != SWAP_ROUTER:
            self._perform(index, step)
        else:
            self._isolate(index, step.gas)
    if pulled != 0:
        for i: uint256 in range(MAX_STEPS):
            if pulled & (1 << i) != 0:
                self._send(self.steps[i].take, self.caller, self.steps[i].amount)


@internal
def _isolate(index: uint256, gas_limit: uint256):
    """
    @dev Runs a step in a call of its own: one with a gas limit may fail.
    """
    is_done: bool = False
    reason: Bytes[MAX_REASON] = b""
    is_done, reason = raw_call(
        self,
        abi_encode(index, method_id=method_id("perform(uint256)")),
        max_outsize=MAX_REASON,
        gas=gas_limit if gas_limit != 0 else msg.gas,
        revert_on_failure=False,
    )
    if not is_done:
        if gas_limit == 0:
            raw_revert(reason)
        log StepFailed(index=index, reason=reason)


# Doors


@internal
def _open(index: uint256, step: Step):
    """
    @dev Notes who has to call back, for which step and for how much at most, and calls the door's contract.
    """
    assert self.doors < MAX_DOORS, "executor: nested"
    self.doors += 1
    sender: address = step.target
    most: uint256 = 0
    is_allowance: bool = False  # whether it takes its due by an allowance; else it is sent there by the callback
    due: address = step.take
    call: Bytes[MAX_CALL] = b""
    number: Bytes[32] = abi_encode(index)
    if step.kind == FLASH_AAVE:
        most = step.amount + step.limit
        is_allowance = True
        call = abi_encode(
            self,
            step.take,
            step.amount,
            number,
            empty(uint16),
            method_id=method_id("flashLoanSimple(address,address,uint256,bytes,uint16)"),
        )
    elif step.kind == FLASH_MORPHO:
        most = step.amount + step.limit
        is_allowance = True
        call = abi_encode(step.take, step.amount, number, method_id=method_id("flashLoan(address,uint256,bytes)"))
    elif step.kind == FLASH_UNISWAP_V3:
        most = step.amount + step.limit
        other: address = extract32(step.data, 0, output_type=address)
        is_first: bool = self._is_first(step.take, other)
        sender = self._pool_v3(step.target, step.take, other, extract32(step.data, 32, output_type=uint256))
        call = abi_encode(
            self,
            step.amount if is_first else 0,
            0 if is_first else step.amount,
            number,
            method_id=method_id("flash(address,uint256,uint256,bytes)"),
        )
    elif step.kind == FLASH_BALANCER:
        most = step.amount + step.limit
        tokens: DynArray[address, 1] = [step.take]
        amounts: DynArray[uint256, 1] = [step.amount]
        call = abi_encode(
            self, tokens, amounts, number, method_id=method_id("flashLoan(address,address[],uint256[],bytes)")
        )
    elif step.kind == FLASH_ERC3156:
        most = step.amount + step.limit
        is_allowance = True
        call = abi_encode(
            self, step.take, step.amount, number, method_id=method_id("flashLoan(address,address,uint256,bytes)")
        )
    elif step.kind == SWAP_FIRST_UNISWAP_V3:
        most = step.limit
        sender = self._pool_v3(step.target, step.give, step.take, extract32(step.data, 0, output_type=uint256))
        call = self._swap_v3(step.give, step.take, -convert(step.amount, int256), number)
    elif step.kind == LIQUIDATE_MORPHO or step.kind == PRE_LIQUIDATE_MORPHO:
        most = step.amount
        is_allowance = True
        due = step.give
        call = concat(
            method_id(
                "liquidate((address,address,address,address,uint256),address,uint256,uint256,bytes)",
                output_type=bytes4,
            ) if step.kind == LIQUIDATE_MORPHO else method_id(
                "preLiquidate(address,uint256,uint256,bytes)", output_type=bytes4
            ),
            step.data,
            convert(len(step.data) + 32, bytes32),
            convert(32, bytes32),
            convert(index, bytes32),
        )
    else:
        raise "executor: kind"
    self.door = Door(sender=sender, index=index, most=most)
    self._call(sender, call, 0)
    assert self.door.sender == empty(address), "executor: unopened"
    if is_allowance:
        self._close(due, step.target)


@internal
def _enter(kinds: uint256, number: Bytes[32]) -> Door:
    """
    @dev A callback's first question: does it come from where a door was opened, and is it that door's? Erases the door.
    """
    door: Door = self.door
    assert msg.sender == door.sender, "executor: stranger"
    assert (
        kinds & (1 << self.steps[door.index].kind) != 0
        and len(number) == 32
        and convert(number, uint256) == door.index
    ), "executor: door"
    self.door = empty(Door)
    return door


@internal
@pure
def _check(owed: uint256, door: Door):
    assert owed <= door.most, "executor: dear"


@external
def executeOperation(asset: address, amount: uint256, premium: uint256, initiator: address, params: Bytes[32]) -> bool:
    """
    @notice Aave v3's loan has arrived; the pool takes it back by an allowance.
    """
    door: Door = self._enter(1 << FLASH_AAVE, params)
    self._check(amount + premium, door)
    assert (
        initiator == self
        and asset == self.steps[door.index].take
        and amount == self.steps[door.index].amount
    ), "executor: door"
    self._run(door.index + 1)
    self._approve(asset, msg.sender, amount + premium)
    return True


@external
def onMorphoFlashLoan(assets: uint256, data: Bytes[32]):
    """
    @notice Morpho's loan has arrived; Morpho takes it back by an allowance, and calls only who asked for it.
    """
    door: Door = self._enter(1 << FLASH_MORPHO, data)
    assert assets == self.steps[door.index].amount, "executor: door"
    self._run(door.index + 1)
    self._approve(self.steps[door.index].take, msg.sender, assets)


@external
def onFlashLoan(initiator: address, token: address, amount: uint256, fee: uint256, data: Bytes[32]) -> bytes32:
    """
    @notice An ERC-3156 lender's loan has arrived; the lender takes it back by an allowance.
    """
    door: Door = self._enter(1 << FLASH_ERC3156, data)
    self._check(amount + fee, door)
    assert (
        initiator == self
        and token == self.steps[door.index].take
        and amount == self.steps[door.index].amount
    ), "executor: door"
    self._run(door.index + 1)
    self._approve(token, msg.sender, amount + fee)
    return ERC3156_DONE


@external
def receiveFlashLoan(
    tokens: DynArray[address, 1],
    amounts: DynArray[uint256, 1],
    fees: DynArray[uint256, 1],
    data: Bytes[32],
):
    """
    @notice Balancer's loan has arrived, and is sent back. The vault lets anybody name the recipient, and is locked
            while a loan is out: the open door tells that it was this contract.
    """
    door: Door = self._enter(1 << FLASH_BALANCER, data)
    self._check(amounts[0] + fees[0], door)
    assert tokens[0] == self.steps[door.index].take and amounts[0] == self.steps[door.index].amount, "executor: door"
    self._run(door.index + 1)
    self._send(tokens[0], msg.sender, amounts[0] + fees[0])


@external
def uniswapV3FlashCallback(fee0: uint256, fee1: uint256, data: Bytes[32]):
    """
    @notice A Uniswap v3 pool's loan has arrived, and is sent back. The pool calls only who asked for it.
    """
    self._flashed(fee0 + fee1, data)


@external
def pancakeV3FlashCallback(fee0: uint256, fee1: uint256, data: Bytes[32]):
    """
    @notice The same of a PancakeSwap v3 pool.
    """
    self._flashed(fee0 + fee1, data)


@external
def uniswapV3SwapCallback(delta0: int256, delta1: int256, data: Bytes[32]):
    """
    @notice A Uniswap v3 pool has sent what is taken, and wants what is given. The pool calls only who swaps.
    """
    self._swapped(delta0, delta1, data)


@external
def pancakeV3SwapCallback(delta0: int256, delta1: int256, data: Bytes[32]):
    """
    @notice The same of a PancakeSwap v3 pool.
    """
    self._swapped(delta0, delta1, data)


@external
def onMorphoLiquidate(repaid: uint256, data: Bytes[32]):
    """
    @notice Morpho has handed over the collateral; it takes the debt by an allowance.
    """
    self._seized(1 << LIQUIDATE_MORPHO, repaid, data)


@external
def onPreLiquidate(repaid: uint256, data: Bytes[32]):
    """
    @notice A pre-liquidation contract has handed over the collateral; it takes the debt by an allowance.
    """
    self._seized(1 << PRE_LIQUIDATE_MORPHO, repaid, data)


@internal
def _flashed(fee: uint256, data: Bytes[32]):
    door: Door = self._enter(1 << FLASH_UNISWAP_V3, data)
    owed: uint256 = self.steps[door.index].amount + fee
    self._check(owed, door)
    self._run(door.index + 1)
    self._send(self.steps[door.index].take, msg.sender, owed)


@internal
def _swapped(delta0: int256, delta1: int256, data: Bytes[32]):
    """
    @dev A pool asks for one token (a positive number) and has sent the other (a negative one).
    """
    door: Door = self._enter((1 << SWAP_UNISWAP_V3) | (1 << SWAP_FIRST_UNISWAP_V3), data)
    give: address = self.steps[door.index].give
    owed: int256 = delta0
    sent: int256 = delta1
    if not self._is_first(give, self.steps[door.index].take):
        owed = delta1
        sent = delta0
    self._check(convert(owed, uint256), door)
    if self.steps[door.index].kind == SWAP_FIRST_UNISWAP_V3:
        assert convert(-sent, uint256) == self.steps[door.index].amount, "executor: short"
        self._run(door.index + 1)
    self._send(give, msg.sender, convert(owed, uint256))


@internal
def _seized(kinds: uint256, repaid: uint256, data: Bytes[32]):
    door: Door = self._enter(kinds, data)
    self._check(repaid, door)
    self._run(door.index + 1)
    self._approve(self.steps[door.index].give, msg.sender, repaid)


# Steps that are done when they return


@internal
def _perform(index: uint256, step: Step):
    """
    @dev Gives the amount, and looks whether what is taken has grown by the limit.
    """
    amount: uint256 = self._amount(step.give, step.amount)
    held: uint256 = 0
    if step.limit != 0:
        held = self._balance(step.take)
    if step.kind == SWAP_UNISWAP_V3:
        pool: address = self._pool_v3(
            step.target, step.give, step.take, extract32(step.data, 0, output_type=uint256)
        )
        self.door = Door(sender=pool, index=index, most=amount)
        self._call(pool, self._swap_v3(step.give, step.take, convert(amount, int256), abi_encode(index)), 0)
        assert self.door.sender == empty(address), "executor: unopened"
    elif step.kind == SWAP_UNISWAP_V2:
        self._swap_v2(step, amount)
    else:
        self._pay(step, amount)
    if step.limit != 0:
        assert self._balance(step.take) >= held + step.limit, "executor: least"


@internal
def _pay(step: Step, amount: uint256):
    """
    @dev Calls the target with the amount: attached, allowed, or burnt by the token that is itself the target.
    """
    call: Bytes[MAX_CALL] = b""
    is_code: bool = False  # whether it may return an error's number
    is_burnt: bool = False
    if step.kind == LIQUIDATE_AAVE:
        call = abi_encode(
            step.take,
            step.give,
            extract32(step.data, 0, output_type=address),
            amount,
            False,  # the underlying token, not the aToken
            method_id=method_id("liquidationCall(address,address,address,uint256,bool)"),
        )
    elif step.kind == LIQUIDATE_COMPOUND:
        borrower: address = extract32(step.data, 0, output_type=address)
        if step.give == NATIVE:  # this one reverts where it fails
            call = abi_encode(borrower, step.take, method_id=method_id("liquidateBorrow(address,address)"))
        else:
            is_code = True
            call = abi_encode(
                borrower, amount, step.take, method_id=method_id("liquidateBorrow(address,uint256,address)")
            )
    elif step.kind == LIQUIDATE_VENUS:
        call = abi_encode(
            extract32(step.data, 0, output_type=address),
            extract32(step.data, 32, output_type=address),
            amount,
            step.take,
            method_id=method_id("liquidateBorrow(address,address,uint256,address)"),
        )
    elif step.kind == REDEEM_COMPOUND:
        is_burnt = True
        is_code = True
        call = abi_encode(amount, method_id=method_id("redeem(uint256)"))
    elif step.kind == SWAP_CURVE:
        call = concat(
            method_id("exchange(uint256,uint256,uint256,uint256)", output_type=bytes4)
            if extract32(step.data, 64, output_type=uint256) != 0
            else method_id("exchange(int128,int128,uint256,uint256)", output_type=bytes4),
            slice(step.data, 0, 64),
            convert(amount, bytes32),
            convert(step.limit, bytes32),
        )
    elif step.kind == SWAP_BALANCER:
        call = self._swap_balancer(step, amount)
    elif step.kind == REDEEM_ERC4626:
        is_burnt = True
        call = abi_encode(amount, self, self, method_id=method_id("redeem(uint256,address,address)"))
    elif step.kind == UNWRAP_WSTETH:
        is_burnt = True
        call = abi_encode(amount, method_id=method_id("unwrap(uint256)"))
    elif step.kind == WRAP_NATIVE:
        call = method_id("deposit()")
    elif step.kind == UNWRAP_NATIVE:
        is_burnt = True
        call = abi_encode(amount, method_id=method_id("withdraw(uint256)"))
    else:
        raise "executor: kind"

    is_allowance: bool = step.give != NATIVE and not is_burnt
    if is_allowance:
        self._approve(step.give, step.target, amount)
    response: Bytes[MAX_REASON] = self._call(step.target, call, amount if step.give == NATIVE else 0)
    if is_code:
        assert len(response) >= 32, "executor: unreadable"
        code: uint256 = extract32(response, 0, output_type=uint256)
        if code != 0:
            raw_revert(abi_encode(code, method_id=method_id("ReturnCode(uint256)")))
    if is_allowance:
        self._close(step.give, step.target)


@internal
def _route(step: Step):
    """
    @dev Calls a router, by a function that was allowed, with a payload made elsewhere. All that it can take is the
         amount, and all that counts is what has come back.
    """
    amount: uint256 = self._amount(step.give, step.amount)
    held: uint256 = self._balance(step.take)
    place: uint256 = extract32(step.data, 0, output_type=uint256)
    assert place < len(self.payloads), "executor: payload"
    payload: Bytes[MAX_PAYLOAD] = self.payloads[place]
    assert self.selectors[step.target][convert(slice(payload, 0, 4), bytes4)], "executor: selector"
    if step.give != NATIVE:
        self._approve(step.give, step.target, amount)
    is_done: bool = False
    response: Bytes[MAX_REASON] = b""
    is_done, response = raw_call(
        step.target,
        payload,
        max_outsize=MAX_REASON,
        value=amount if step.give == NATIVE else 0,
        revert_on_failure=False,
    )
    if not is_done:
        raw_revert(response)
    if step.give != NATIVE:
        self._close(step.give, step.target)
    assert self._balance(step.take) >= held + step.limit, "executor: least"


@internal
def _swap_v2(step: Step, amount: uint256):
    """
    @dev What the pair received counts, not what was sent: a token may keep a part.
    """
    is_first: bool = self._is_first(step.give, step.take)
    salt: bytes32 = (
        keccak256(concat(convert(step.give, bytes20), convert(step.take, bytes20)))
        if is_first
        else keccak256(concat(convert(step.take, bytes20), convert(step.give, bytes20)))
    )
    pair: address = self._created(step.target, salt)
    self._send(step.give, pair, amount)
    is_done: bool = False
    response: Bytes[64] = b""
    is_done, response = raw_call(
        pair, method_id("getReserves()"), max_outsize=64, is_static_call=True, revert_on_failure=False
    )
    assert is_done and len(response) == 64, "executor: unreadable"
    give_reserve: uint256 = extract32(response, 0 if is_first else 32, output_type=uint256)
    take_reserve: uint256 = extract32(response, 32 if is_first else 0, output_type=uint256)
    scaled: uint256 = (self._view(step.give, abi_encode(pair, method_id=method_id("balanceOf(address)"))) - give_reserve) * (
        10_000 - extract32(step.data, 0, output_type=uint256)
    )
    out: uint256 = scaled * take_reserve // (give_reserve * 10_000 + scaled)
    no_data: Bytes[32] = b""
    self._call(
        pair,
        abi_encode(
            0 if is_first else out,
            out if is_first else 0,
            self,
            no_data,
            method_id=method_id("swap(uint256,uint256,address,bytes)"),
        ),
        0,
    )


@internal
@view
def _swap_balancer(step: Step, amount: uint256) -> Bytes[MAX_CALL]:
    """
    @dev swap(SingleSwap, FundManagement, limit, deadline), for the exact amount given.
    """
    return concat(
        method_id(
            "swap((bytes32,uint8,address,address,uint256,bytes),(address,bool,address,bool),uint256,uint256)",
            output_type=bytes4,
        ),
        abi_encode(
            convert(224, uint256),  # where the SingleSwap begins
            self,
            False,  # out of tokens, not of the vault's own books
            self,
            False,
            step.limit,
            block.timestamp,
            extract32(step.data, 0, output_type=bytes32),
            convert(0, uint256),  # the amount given is exact
            self._asset(step.give),
            self._asset(step.take),
            amount,
            convert(192, uint256),  # where its data begins
            convert(0, uint256),  # and that it is empty
        ),
    )


# Pools


@internal
@pure
def _is_first(token: address, other: address) -> bool:
    return convert(token, uint160) < convert(other, uint160)


@internal
@pure
def _asset(token: address) -> address:
    """
    @dev Balancer's word for native currency is the zero address.
    """
    return empty(address) if token == NATIVE else token


@internal
@view
def _pool_v3(factory: address, a: address, b: address, fee: uint256) -> address:
    return self._created(
        factory, keccak256(abi_encode(a, b, fee) if self._is_first(a, b) else abi_encode(b, a, fee))
    )


@internal
@view
def _created(factory: address, salt: bytes32) -> address:
    """
    @dev CREATE2: nobody but the factory can put a contract there, and only this one.
    """
    digest: bytes32 = keccak256(
        concat(0xff, convert(factory, bytes20), salt, self.init_code_hashes[factory])
    )
    return convert(convert(digest, uint256) & convert(max_value(uint160), uint256), address)


@internal
@view
def _swap_v3(give: address, take: address, amount: int256, number: Bytes[32]) -> Bytes[MAX_CALL]:
    """
    @dev A positive amount is given, a negative one taken; at any price, as the limit is looked at elsewhere.
    """
    is_first: bool = self._is_first(give, take)
    return abi_encode(
        self,
        is_first,
        amount,
        MIN_SQRT_PRICE if is_first else MAX_SQRT_PRICE,
        number,
        method_id=method_id("swap(address,bool,int256,uint160,bytes)"),
    )


# Tokens


@internal
@view
def _amount(token: address, amount: uint256) -> uint256:
    return self._balance(token) if amount == ALL else amount


@internal
@view
def _balance(token: address) -> uint256:
    if token == NATIVE:
        return self.balance
    return self._view(token, abi_encode(self, method_id=method_id("balanceOf(address)")))


@internal
@view
def _view(token: address, call: Bytes[68]) -> uint256:
    is_done: bool = False
    response: Bytes[32] = b""
    is_done, response = raw_call(
        token, call, max_outsize=32, gas=TOKEN_GAS, is_static_call=True, revert_on_failure=False
    )
    assert is_done and len(response) == 32, "executor: unreadable"
    return convert(response, uint256)


@internal
def _pull(token: address, amount: uint256):
    self._ask(
        token,
        abi_encode(self.caller, self, amount, method_id=method_id("transferFrom(address,address,uint256)")),
    )


@internal
def _send(token: address, to: address, amount: uint256):
    if token == NATIVE:
        is_done: bool = raw_call(to, b"", value=amount, revert_on_failure=False)
        assert is_done, "executor: refused"
    else:
        self._ask(token, abi_encode(to, amount, method_id=method_id("transfer(address,uint256)")))


@internal
def _approve(token: address, spender: address, amount: uint256):
    """
    @dev Some tokens go from one allowance to another only by way of zero.
    """
    call: Bytes[100] = abi_encode(spender, amount, method_id=method_id("approve(address,uint256)"))
    is_done: bool = False
    response: Bytes[MAX_REASON] = b""
    is_done, response = self._try(token, call)
    if not is_done:
        self._ask(token, abi_encode(spender, empty(uint256), method_id=method_id("approve(address,uint256)")))
        self._ask(token, call)


@internal
def _close(token: address, spender: address):
    """
    @dev Takes back what was not used, and makes sure that nothing is left.
    """
    call: Bytes[68] = abi_encode(self, spender, method_id=method_id("allowance(address,address)"))
    if self._view(token, call) != 0:
        self._ask(token, abi_encode(spender, empty(uint256), method_id=method_id("approve(address,uint256)")))
        assert self._view(token, call) == 0, "executor: allowance"


@internal
def _ask(token: address, call: Bytes[100]):
    is_done: bool = False
    response: Bytes[MAX_REASON] = b""
    is_done, response = self._try(token, call)
    if not is_done:
        assert len(response) != 0, "executor: token"
        raw_revert(response)


@internal
def _try(token: address, call: Bytes[100]) -> (bool, Bytes[MAX_REASON]):
    """
    @dev A token has done it if it did not revert, and returned nothing or true.
    """
    is_done: bool = False
    response: Bytes[MAX_REASON] = b""
    is_done, response = raw_call(token, call, max_outsize=MAX_REASON, gas=TOKEN_GAS, revert_on_failure=False)
    if is_done:
        if len(response) == 0:
            is_done = token.is_contract
        else:
            is_done = len(response) >= 32 and extract32(response, 0, output_type=uint256) == 1
            response = b""
    return is_done, response


@internal
def _call(to: address, call: Bytes[MAX_CALL], amount_wei: uint256) -> Bytes[MAX_REASON]:
    is_done: bool = False
    response: Bytes[MAX_REASON] = b""
    is_done, response = raw_call(to, call, max_outsize=MAX_REASON, value=amount_wei, revert_on_failure=False)
    if not is_done:
        raw_revert(response)
    return response


# Administration


@external
def authorize(permits: DynArray[Permit, 64]):
    """
    @notice Say what may be called for which kinds of steps; what was said of these targets before is forgotten.
    @param permits Targets with one bit for each kind; of a factory, the hash that its pools' addresses are made with.
    """
    self._only_owner()
    for permit: Permit in permits:
        assert permit.kinds == 0 or (permit.target.is_contract and permit.target != self), "executor: target"
        self.permits[permit.target] = permit.kinds
        self.init_code_hashes[permit.target] = permit.init_code_hash
        log Authorized(target=permit.target, kinds=permit.kinds, init_code_hash=permit.init_code_hash)


@external
def authorize_selectors(router: address, selectors: DynArray[bytes4, 16], allowed: bool):
    """
    @notice Say which of a router's functions may be called.
    """
    self._only_owner()
    for selector: bytes4 in selectors:
        # A token is no router: these would move or allow what callers have allowed this contract.
        assert not allowed or selector not in [
            method_id("transfer(address,uint256)", output_type=bytes4),
            method_id("transferFrom(address,address,uint256)", output_type=bytes4),
            method_id("approve(address,uint256)", output_type=bytes4),
            method_id("increaseAllowance(address,uint256)", output_type=bytes4),
            method_id("increaseApproval(address,uint256)", output_type=bytes4),
            method_id("transferAndCall(address,uint256,bytes)", output_type=bytes4),
            method_id("transferAndCall(address,uint256)", output_type=bytes4),
            method_id("transferFromAndCall(address,address,uint256)", output_type=bytes4),
            method_id("transferFromAndCall(address,address,uint256,bytes)", output_type=bytes4),
            method_id("approveAndCall(address,uint256,bytes)", output_type=bytes4),
            method_id("safeTransferFrom(address,address,uint256)", output_type=bytes4),
            method_id("burnFrom(address,uint256)", output_type=bytes4),
            method_id("move(address,address,uint256)", output_type=bytes4),
            method_id("pull(address,uint256)", output_type=bytes4),
            method_id("redeem(uint256,address,address)", output_type=bytes4),
            method_id("withdraw(uint256,address,address)", output_type=bytes4),
        ], "executor: forbidden"
        self.selectors[router][selector] = allowed
    log SelectorsSet(router=router, selectors=selectors, allowed=allowed)


@external
def set_caller(account: address, allowed: bool):
    """
    @notice Say whether an account may run programs.
    """
    self._only_owner()
    self._set_caller(account, allowed)


@external
def pause():
    """
    @notice Stop running programs; a caller may do so too.
    """
    assert self.is_caller[msg.sender] or msg.sender == self.owner, "executor: caller"
    self.payee = empty(address)
    log Paused(account=msg.sender)


@external
def unpause():
    """
    @notice Run programs again.
    """
    self._only_owner()
    self.payee = msg.sender
    log Unpaused(account=msg.sender)


@external
@view
def is_paused() -> bool:
    """
    @notice Tell whether programs are stopped.
    """
    return self.payee == empty(address)


@external
def sweep(tokens: DynArray[address, 16]):
    """
    @notice Send all that is held of some tokens to the owner.
    """
    self._only_owner()
    assert not self.is_running, "executor: locked"
    for token: address in tokens:
        balance: uint256 = self._balance(token)
        if balance != 0:
            self._send(token, msg.sender, balance)
            log Swept(token=token, amount=balance)


@external
def transfer_ownership(account: address):
    """
    @notice Offer the ownership; the zero address withdraws the offer.
    """
    self._only_owner()
    self.pending_owner = account
    log OwnershipTransferStarted(previous_owner=msg.sender, new_owner=account)


@external
def accept_ownership():
    """
    @notice Take the ownership that was offered.
    """
    assert msg.sender == self.pending_owner, "executor: pending"
    log OwnershipTransferred(previous_owner=self.owner, new_owner=msg.sender)
    self.owner = msg.sender
    if self.payee != empty(address):  # a pause outlives its owner
        self.payee = msg.sender
    self.pending_owner = empty(address)


@internal
@view
def _only_owner():
    assert msg.sender == self.owner, "executor: owner"


@internal
def _set_caller(account: address, allowed: bool):
    assert account != empty(address), "executor: account"
    self.is_caller[account] = allowed
    log CallerSet(account=account, allowed=allowed)
