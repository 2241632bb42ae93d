"""Training: a recipe in, a run folder out.

``loop`` is the training loop, ``trainer`` takes the steps, ``images`` holds the data on its device, ``optimizer`` makes
the optimizer and the learning rate, ``process_group`` joins the processes of a distributed run, ``checkpoint_manager``
and ``checkpoints`` keep what survives a kill, ``run`` reads and finishes the run folder, ``run_data`` opens a finished
run with its data.
"""

from pursuitnet.program.callbacks.base import Callback, NoOpCallback
from pursuitnet.program.factories import dataset_of, device_of, model_of
from pursuitnet.program.run_folder import Record
from pursuitnet.program.train.checkpoint_manager import StoppedError
from pursuitnet.program.train.images import Images, batches, images_of
from pursuitnet.program.train.loop import train
from pursuitnet.program.train.optimizer import learning_rate, optimizer_of
from pursuitnet.program.train.process_group import ProcessGroup, group_of
from pursuitnet.program.train.run import last_record, load_run, read_recipe, records
from pursuitnet.program.train.run_data import RunWithData, open_run
from pursuitnet.program.train.trainer import Trainer, accuracy, evaluate_split, logits_of
from pursuitnet.program.versions import commit, versions

__all__ = [
    "Callback",
    "Images",
    "NoOpCallback",
    "ProcessGroup",
    "Record",
    "RunWithData",
    "StoppedError",
    "Trainer",
    "accuracy",
    "batches",
    "commit",
    "dataset_of",
    "device_of",
    "evaluate_split",
    "group_of",
    "images_of",
    "last_record",
    "learning_rate",
    "load_run",
    "logits_of",
    "model_of",
    "open_run",
    "optimizer_of",
    "read_recipe",
    "records",
    "train",
    "versions",
]
