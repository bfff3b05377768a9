"""One folder per protocol, four files each, strangers to each other."""
