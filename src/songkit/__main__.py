"""`python -m songkit` is `songkit`."""

import sys

from songkit.cli import main

sys.exit(main())
