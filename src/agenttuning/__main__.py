"""`python -m agenttuning VERB ...`: the same door as the `agenttuning` command."""

import sys

from agenttuning.cli import main

if __name__ == "__main__":
    sys.exit(main())
