"""What the README's numbers come from: `make bench`."""
