"""The package in which Hydra looks for launchers; this one is `hydra/launcher=processes`."""

from sparse_lightning.study.sweep import launcher


class ProcessLauncher(launcher.ProcessLauncher):
    """Each run in a process of its own, several at once, on this machine."""
