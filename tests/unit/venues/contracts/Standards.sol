// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {ERC20, IERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20FlashMint} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20FlashMint.sol";
import {ERC4626} from "@openzeppelin/contracts/token/ERC20/extensions/ERC4626.sol";

/// OpenZeppelin's vault as it is.
contract PlainVault is ERC4626 {
    constructor(IERC20 asset_) ERC20("Plain Vault", "PV") ERC4626(asset_) {}
}

/// OpenZeppelin's flash mint with a fee that has a flat part, a proportional one and a cap.
contract FlashMint is ERC20FlashMint {
    uint256 public flat;
    uint256 public bps;
    uint256 public cap;

    constructor() ERC20("Flash Mint", "FM") {
        _mint(msg.sender, 10 ** 24);
    }

    function setFee(uint256 flat_, uint256 bps_, uint256 cap_) external {
        (flat, bps, cap) = (flat_, bps_, cap_);
    }

    function _flashFee(address, uint256 value) internal view override returns (uint256) {
        uint256 fee = flat + (value * bps) / 10_000;
        return fee > cap ? cap : fee;
    }
}
