"""What holds for all tests: threads that do not fight over the cores, here and in the programs that tests start."""

import os

from pursuitnet.program.threads import set_thread_defaults

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is loaded
set_thread_defaults()
