"""What holds for the tests of the core and of every plugin."""

import hypothesis

# The same examples in every run; a busy machine is no fault of the program.
hypothesis.settings.register_profile("songkit", deadline=None, derandomize=True)
hypothesis.settings.load_profile("songkit")
