"""Make the report of folders of runs; `--help` lists the options."""

from sparse_lightning.study.commands import report

if __name__ == "__main__":
    report()
