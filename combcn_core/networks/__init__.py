"""The two networks of the paper, and what it takes to run them.

`config` says what they are like, `layers` holds the tables and the modules they make, `checkpoint`
reads and writes their weights (`weights/` has those that come with CombCN, and their card).
`inference` runs them, a region at a time where `regions` says what each layer must compute; `jobs`
cuts frames into such regions. `restore` takes clips through both networks.
"""

from pathlib import Path

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
