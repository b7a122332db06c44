"""The published methods, a file each: PruneRegrow with other defaults, and a card."""

from sparse_lightning.callbacks.presets.acdc import ACDC
from sparse_lightning.callbacks.presets.cht import CHT
from sparse_lightning.callbacks.presets.chts import CHTs
from sparse_lightning.callbacks.presets.chtss import CHTss
from sparse_lightning.callbacks.presets.deep_r import DeepR
from sparse_lightning.callbacks.presets.dense import Dense
from sparse_lightning.callbacks.presets.dsr import DSR
from sparse_lightning.callbacks.presets.gmp import GMP
from sparse_lightning.callbacks.presets.granet import GraNet
from sparse_lightning.callbacks.presets.hebbian import HebbianRegrow
from sparse_lightning.callbacks.presets.lottery_ticket import LotteryTicket
from sparse_lightning.callbacks.presets.mest import MEST
from sparse_lightning.callbacks.presets.random import RandomRegrow
from sparse_lightning.callbacks.presets.rigl import RigL
from sparse_lightning.callbacks.presets.set import SET
from sparse_lightning.callbacks.presets.snfs import SNFS
from sparse_lightning.callbacks.presets.srigl import SRigL
from sparse_lightning.callbacks.presets.static import StaticSparse
from sparse_lightning.callbacks.presets.top_kast import TopKAST
from sparse_lightning.callbacks.prune_regrow import PruneRegrow

__all__ = [
    "ACDC",
    "CHT",
    "DSR",
    "GMP",
    "MEST",
    "PRESETS",
    "SET",
    "SNFS",
    "CHTs",
    "CHTss",
    "DeepR",
    "Dense",
    "GraNet",
    "HebbianRegrow",
    "LotteryTicket",
    "RandomRegrow",
    "RigL",
    "SRigL",
    "StaticSparse",
    "TopKAST",
]

PRESETS: dict[str, type[PruneRegrow]] = {
    "set": SET,
    "rigl": RigL,
    "srigl": SRigL,
    "snfs": SNFS,
    "dsr": DSR,
    "gmp": GMP,
    "granet": GraNet,
    "mest": MEST,
    "acdc": ACDC,
    "cht": CHT,
    "chts": CHTs,
    "chtss": CHTss,
    "top_kast": TopKAST,
    "deep_r": DeepR,
    "lottery_ticket": LotteryTicket,
    "hebbian": HebbianRegrow,
    "random": RandomRegrow,
    "static": StaticSparse,
}
