"""The commands of the program, one module each. PyTorch is loaded when a command runs, not for --help."""
