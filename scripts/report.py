"""Make the report of folders of runs, in the first of them: verdicts, tables, figures, a page; print it in short."""

import argparse
import sys

from sparse_lightning.study.analysis.report import make_report

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="+", help="folder of a multirun, of one run, or of several of them")
    parser.add_argument("--against", metavar="FACTOR=LEVEL", help="what to compare with; inferred if not said")
    parser.add_argument("--accuracy", type=float, help="validation accuracy, a share, that convergence is measured at")
    said = parser.parse_args()
    try:
        print(make_report(*said.folder, against=said.against, accuracy=said.accuracy))
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
