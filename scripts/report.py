"""Print the table of a folder of runs, beside the published figures."""

import argparse
import sys

from sparse_lightning.study import format_table, load_runs

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="folder of a multirun, of one run, or of several of them")
    try:
        print(format_table(load_runs(parser.parse_args().folder)))
    except OSError as error:
        sys.exit(f"Error: {error}")
