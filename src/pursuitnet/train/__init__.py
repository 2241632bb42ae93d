"""Training: a recipe in, a run folder out.

``loop`` trains, ``trainer`` takes the steps, ``images`` holds the data on its device, ``optimiser`` the rule of the
steps, ``group`` the processes that share them, ``keeper`` and ``checkpoints`` what survives a kill, ``run`` the folder
and what is read from it, ``opened`` a finished run with its data.
"""

from pursuitnet.train.group import Group, group_of
from pursuitnet.train.images import Images, batches, images_of
from pursuitnet.train.keeper import StoppedError
from pursuitnet.train.loop import train
from pursuitnet.train.opened import Opened, open_run
from pursuitnet.train.optimiser import learning_rate, optimiser_of
from pursuitnet.train.run import (
    Record,
    commit,
    dataset_of,
    device_of,
    last_record,
    load_run,
    model_of,
    read_recipe,
    records,
    versions,
)
from pursuitnet.train.trainer import Trainer, evaluate, logits_of
from pursuitnet.watch import Silent, Watcher

__all__ = [
    "Group",
    "Images",
    "Opened",
    "Record",
    "Silent",
    "StoppedError",
    "Trainer",
    "Watcher",
    "batches",
    "commit",
    "dataset_of",
    "device_of",
    "evaluate",
    "group_of",
    "images_of",
    "last_record",
    "learning_rate",
    "load_run",
    "logits_of",
    "model_of",
    "open_run",
    "optimiser_of",
    "read_recipe",
    "records",
    "train",
    "versions",
]
