"""`python -m pursuitnet` is the same program as `pursuitnet`."""

from pursuitnet.program.cli import main

main()
