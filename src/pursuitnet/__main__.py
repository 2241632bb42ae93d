"""`python -m pursuitnet` is the same program as `pursuitnet`."""

from pursuitnet.cli import main

main()
