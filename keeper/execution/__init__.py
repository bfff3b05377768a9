"""The only code that can spend."""
