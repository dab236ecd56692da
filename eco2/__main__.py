"""`python -m eco2` is `eco2`."""

from eco2.cli import main

main()
