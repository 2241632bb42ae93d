"""What holds for all tests.

The same random draws wherever a test begins, a cache of data sets of their own, and threads that do not fight over the
cores, here and in the programs that tests start.
"""

import os

import pytest

from pursuitnet.program.threads import set_thread_defaults

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is loaded
set_thread_defaults()


@pytest.fixture(autouse=True, scope="session")
def _server(request):
    if len(request.session.items) > 1000:  # else it is started where it is needed
        from programs import fork_server

        fork_server()


@pytest.fixture(autouse=True)
def _seeded():
    import torch

    # without a device, torch.manual_seed would store a stack trace for the day on which there is one
    seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
    seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PURSUITNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield
