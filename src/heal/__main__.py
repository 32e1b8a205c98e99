"""`python -m heal` does what `heal` does."""

from heal.cli import main

main()
