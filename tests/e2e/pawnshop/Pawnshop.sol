// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

interface IERC20 {
    function decimals() external view returns (uint8);
    function transfer(address to, uint256 amount) external returns (bool);
    function transferFrom(address from, address to, uint256 amount) external returns (bool);
}

interface IFeed {
    function decimals() external view returns (uint8);
    function latestRoundData() external view returns (uint80, int256 answer, uint256, uint256, uint80);
}

/// Lends one token, which counts as a dollar, against another, which a feed prices in dollars.
contract Pawnshop {
    struct Loan {
        uint256 collateral;
        uint256 debt; // up to `updated`; interest since then is linear
        uint256 updated;
    }

    uint256 private constant WAD = 1e18;
    uint256 private constant BPS = 10_000;
    uint256 public constant THRESHOLD_BPS = 8_000;
    uint256 public constant BONUS_BPS = 10_500;
    uint256 public constant CLOSE_FACTOR_BPS = 5_000;

    IERC20 public immutable collateral;
    IERC20 public immutable loan;
    IFeed public immutable feed;
    uint256 public immutable rate; // of the debt, a second, wad
    uint256 private immutable collateralUnit; // what a whole collateral token is priced by
    uint256 private immutable loanUnit;

    mapping(address => Loan) public loans;

    event Opened(address indexed account, uint256 collateral, uint256 borrowed);
    event Repaid(address indexed account, uint256 repaid, uint256 returned);
    event Liquidated(address indexed account, address indexed liquidator, uint256 repaid, uint256 seized);

    error Healthy();
    error Unhealthy();
    error TooMuch();
    error TooLittleCollateral();
    error NoPrice();
    error TransferFailed();

    constructor(IERC20 collateral_, IERC20 loan_, IFeed feed_, uint256 rate_) {
        (collateral, loan, feed, rate) = (collateral_, loan_, feed_, rate_);
        collateralUnit = 10 ** (uint256(collateral_.decimals()) + feed_.decimals());
        loanUnit = 10 ** uint256(loan_.decimals());
    }

    /// Deposits collateral and borrows, on top of what is there.
    function open(uint256 deposited, uint256 borrowed) external {
        _settle(msg.sender, loans[msg.sender].collateral + deposited, debtOf(msg.sender) + borrowed);
        if (health(msg.sender) < WAD) revert Unhealthy();
        _take(collateral, deposited);
        _give(loan, borrowed);
        emit Opened(msg.sender, deposited, borrowed);
    }

    /// Repays the whole debt or a part; with the last of it, all of the collateral goes back.
    function repay(uint256 amount) external {
        uint256 debt = debtOf(msg.sender);
        uint256 repaid = amount < debt ? amount : debt;
        uint256 returned = repaid == debt ? loans[msg.sender].collateral : 0;
        _settle(msg.sender, loans[msg.sender].collateral - returned, debt - repaid);
        _take(loan, repaid);
        _give(collateral, returned);
        emit Repaid(msg.sender, repaid, returned);
    }

    /// Repays up to half of an unhealthy debt for collateral of the same value and a bonus.
    function liquidate(address account, uint256 repaid) external {
        if (health(account) >= WAD) revert Healthy();
        uint256 debt = debtOf(account);
        if (repaid > debt * CLOSE_FACTOR_BPS / BPS) revert TooMuch();
        uint256 seized = repaid * BONUS_BPS * collateralUnit / (BPS * loanUnit * price());
        if (seized > loans[account].collateral) revert TooLittleCollateral();
        _settle(account, loans[account].collateral - seized, debt - repaid);
        _take(loan, repaid);
        _give(collateral, seized);
        emit Liquidated(account, msg.sender, repaid, seized);
    }

    /// The debt with interest, rounded up.
    function debtOf(address account) public view returns (uint256) {
        Loan memory each = loans[account];
        return each.debt + (each.debt * rate * (block.timestamp - each.updated) + WAD - 1) / WAD;
    }

    /// What may be owed against the collateral, divided by the debt (wad); below 1 it can be liquidated.
    function health(address account) public view returns (uint256) {
        uint256 debt = debtOf(account);
        if (debt == 0) return type(uint256).max;
        uint256 value = loans[account].collateral * price() * loanUnit / collateralUnit;
        return value * THRESHOLD_BPS / BPS * WAD / debt;
    }

    function price() public view returns (uint256) {
        (, int256 answer,,,) = feed.latestRoundData();
        if (answer <= 0) revert NoPrice();
        return uint256(answer);
    }

    function _settle(address account, uint256 held, uint256 debt) private {
        loans[account] = Loan(held, debt, block.timestamp);
    }

    function _take(IERC20 token, uint256 amount) private {
        if (!token.transferFrom(msg.sender, address(this), amount)) revert TransferFailed();
    }

    function _give(IERC20 token, uint256 amount) private {
        if (!token.transfer(msg.sender, amount)) revert TransferFailed();
    }
}
