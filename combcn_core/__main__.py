"""`python -m combcn_core` is the `combcn` command."""

import sys

from combcn_core.cli import main

sys.exit(main())
