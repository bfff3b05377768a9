"""Pure decisions: the book, the screen, the scan, the plans, the limits."""
