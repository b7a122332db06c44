"""Make the report of folders of runs, in the first of them: tables, verdicts, figures, a page; print it in short."""

import argparse
import sys

from sparse_lightning.study.analysis.report import make_report

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="+", help="folder of a multirun, of one run, or of several of them")
    parser.add_argument("--against", metavar="FACTOR=LEVEL", help="the arms to compare with; chosen if not given")
    parser.add_argument(
        "--metric", help="column of metrics.csv that runs are judged by; default: report.metric, val_acc"
    )
    parser.add_argument("--mode", choices=["max", "min"], help="whether its highest or its lowest value is the best")
    parser.add_argument("--threshold", type=float, help="value of the metric that convergence is measured at")
    options = vars(parser.parse_args())
    try:
        print(make_report(*options.pop("folder"), **options))
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
