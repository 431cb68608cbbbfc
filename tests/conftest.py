"""What holds for every test: one thread for each process, because two cores are shared by tests that start many."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# A busy machine is no fault of the code.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
