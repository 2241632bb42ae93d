"""Training: a recipe in, a run folder out.

``loop`` trains, ``images`` holds the data on its device, ``optimiser`` the rule of the steps, ``keeper`` and
``checkpoints`` what survives a kill, ``run`` the folder and what is read from it.
"""

from pursuitnet.train.images import Images, batches, images_of
from pursuitnet.train.keeper import StoppedError
from pursuitnet.train.loop import Silent, Watcher, evaluate, train, train_epoch
from pursuitnet.train.optimiser import learning_rate, optimiser_of
from pursuitnet.train.run import Record, commit, device_of, last_record, load_run, model_of, read_recipe, records

__all__ = [
    "Images",
    "Record",
    "Silent",
    "StoppedError",
    "Watcher",
    "batches",
    "commit",
    "device_of",
    "evaluate",
    "images_of",
    "last_record",
    "learning_rate",
    "load_run",
    "model_of",
    "optimiser_of",
    "read_recipe",
    "records",
    "train",
    "train_epoch",
]
